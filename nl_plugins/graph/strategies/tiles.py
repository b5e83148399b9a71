# Copyright (c) The nl_plugins authors. All rights reserved.
"""Attention in row tiles: the N x M weights exist one tile at a time.

The forward pass keeps each row's peak and sum, the backward pass computes the weights
again from them. Any width of query, key and values, on any device.

Shapes: query (B, N, C), key (B, M, C), values (B, M, D).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..lazy import Map, as_tensor, wants_rows
from ..machine import Machine, machine_for
from ..plan import Case, Cost, Strategy
from ..precision import HALF, at_least_float32, nominal, operand
from ..products import float32_product, mix, transposed
from .costs import around, cached, pick
from .twice import gradients, wants_graph

# A tile reads and writes the sums for all keys once, so it has not fewer rows.
MIN_ROWS = 128
# Logits come in powers of two: on a CPU exp2 takes 40 us a tile of 512 x 512 where exp
# takes 110, and up to 3800 where results underflow.
LOG2_E = math.log2(math.e)
# Smaller shares of a row are 0: of weights below the smallest normal number products
# are 10 to 30 times slower.
LOWEST = -100


def tile_rows(batch: int, keys: int, machine: Machine) -> int:
    """Query positions a tile, from the sizes alone."""
    return max(MIN_ROWS, machine.tile // max(1, nominal(batch) * keys))


def tile_sizes(
    batch: int, queries: int, keys: int, machine: Machine
) -> tuple[int | None, int]:
    """Samples and query positions a tile: all positions of several samples, or as many
    of one as fit. None means all samples, of which an open number has no part."""
    if isinstance(batch, torch.SymInt):
        return None, tile_rows(batch, keys, machine)
    samples = max(1, min(batch, machine.samples_tile // max(1, queries * keys)))
    if samples > 1:
        return samples, queries
    return samples, tile_rows(samples, keys, machine)


def spans(length: int, step: int | None) -> Iterator[slice]:
    """Parts of so many; the whole if that is None."""
    if step is None:
        yield slice(None)
    else:
        for start in range(0, length, step):
            yield slice(start, min(start + step, length))


def room(count: int, width: int, rows: bool, *operands: Tensor) -> Tensor:
    """Memory for the results (B, count, width) of row tiles, laid out as asked.

    A list of tiles to be joined would leave holes between them in the heap.
    """
    first, *others = (each[:, :1, :1] for each in operands)
    like = at_least_float32(first)
    for other in others:  # under vmap one that is mapped makes it mapped
        like = like + other
    if rows:
        return like.new_empty(first.shape[0], count, width)
    return transposed(like.new_empty(first.shape[0], width, count))


def tile_product(a: Tensor, b: Tensor, rows: bool = False) -> Tensor:
    """``a @ b`` of at least float32, laid out as asked."""
    if rows:
        return float32_product(a, b)
    return transposed(float32_product(transposed(b), transposed(a)))


def add(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """Add ``a @ b``, in at least float32, to ``total``, which ``first`` overwrites."""
    if a.dtype not in HALF:
        total.baddbmm_(a, b, beta=0 if first else 1)
    elif first:
        total.copy_(float32_product(a, b))
    else:
        total.add_(float32_product(a, b))


def exponentials(logits: Tensor, peak: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``2^(logits - peak)``, in the memory of the logits, and the rows' peaks.

    Peak and sum are kept apart: a logarithm of the sum would round to the digits of
    the logits, and every weight of the row with it.
    """
    if peak is None:
        peak = logits.amax(-1, keepdim=True)
    return F.threshold_(logits.sub_(peak), LOWEST, -math.inf).exp2_(), peak


def logits_of(query: Tensor, key: Tensor, factor: float) -> Tensor:
    """``factor query keyᵀ`` in at least float32."""
    if query.dtype in HALF:  # which the factor would round
        return float32_product(query, transposed(key)).mul_(factor)
    return torch.bmm(query * factor, transposed(key))


def softmax_slope(weights: Tensor, slope: Tensor, total: Tensor) -> Tensor:
    """The gradient of the logits from ``slope``, that of the weights divided by the
    row's ``total``: ``e (s - Σ e s / total)``.

    The sum is of the same rounded products, so where one weight of a row is 1 its
    slope cancels exactly, as that of a dense softmax does.
    """
    slope = slope.mul_(weights)
    mean = slope.sum(-1, keepdim=True) / total
    return slope.addcmul_(weights, mean, value=-1)


class TiledRows(torch.autograd.Function):
    """``softmax(scale query keyᵀ) values``, or of a ReLU, in tiles of ``step`` rows of
    ``samples`` samples."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        query: Tensor,
        key: Tensor,
        values: Tensor,
        scale: float,
        relu: bool,
        samples: int | None,
        step: int,
        rows: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        half, (batch, count, _) = values.dtype in HALF, query.shape
        factor = scale if relu else scale * LOG2_E
        out = room(count, values.shape[2], rows, query, key, values)
        # A ReLU has neither.
        kept = 0 if relu else 1
        peaks, totals = (room(count, kept, rows, query, key) for _ in range(2))
        for some in spans(batch, samples):
            for span in spans(count, step):
                weights = logits_of(query[some, span], key[some], factor)
                if relu:
                    weights = weights.relu_()
                else:
                    weights, peaks[some, span] = exponentials(weights)
                    totals[some, span] = total = weights.sum(-1, keepdim=True)
                    if half:  # shares of 1 keep more digits than powers of two do
                        weights = weights.div_(total)
                tile = tile_product(weights.to(values.dtype), values[some], rows)
                out[some, span] = tile if half or relu else tile.div_(total)
        return out, peaks, totals

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:3], *output[1:])
        ctx.scale, ctx.relu, ctx.samples, ctx.step = inputs[3:7]
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx, grad: Tensor, *_) -> tuple:
        *maps, peaks, totals = ctx.saved_tensors
        scale, relu, low = ctx.scale, ctx.relu, maps[2].dtype
        if wants_graph():

            def definition(query: Tensor, key: Tensor, values: Tensor) -> Tensor:
                query, key, values = map(at_least_float32, (query, key, values))
                logits = scale * (query @ transposed(key))
                return (logits.relu() if relu else logits.softmax(-1)) @ values

            return *gradients(definition, maps, grad), *[None] * 5
        half, factor = low in HALF, scale if relu else scale * LOG2_E
        grad = grad if half or relu else grad / totals
        grads = [room(*map_.shape[1:], False, *maps, grad) for map_ in maps]
        for some in spans(grad.shape[0], ctx.samples):
            query, key, values = (map_[some] for map_ in maps)
            of_query, of_key, of_values = (map_[some] for map_ in grads)
            for span in spans(query.shape[1], ctx.step):
                slope, chosen = grad[some, span].to(low), query[:, span]
                total, first = totals[some, span], span.start == 0
                weights = logits_of(chosen, key, factor)
                if relu:
                    weights = weights.relu_()
                else:
                    weights, _ = exponentials(weights, peaks[some, span])
                    if half:
                        weights, total = weights.div_(total), 1
                add(transposed(of_values), transposed(slope), weights.to(low), first)
                slope = float32_product(slope, transposed(values))
                if relu:  # ten times as fast as filling by a mask
                    slope = torch.ops.aten.threshold_backward(slope, weights, 0)
                else:
                    slope = softmax_slope(weights, slope, total)
                del weights
                slope = slope.to(low)
                of_query[:, span] = tile_product(slope, key)
                add(transposed(of_key), transposed(chosen), slope, first)
        for each in grads[:2]:
            each.mul_(scale)
        return *(g.to(low) for g in grads), *[None] * 5


class RowTiles(Strategy):
    """Softmax in row tiles, in memory linear in N + M."""

    name = 'row_tiles'
    relu = False
    passes = 9, 21  # over a tile besides its products, forward and step
    calls = 10, 28  # a tile

    def refuses(self, case: Case) -> str | None:
        return 'an exported graph would hold every tile' if case.captured else None

    def cost(self, case: Case, machine: Machine) -> Cost:
        samples, rows = tile_sizes(case.batch, case.queries, case.keys, machine)
        rows = min(rows, case.queries)
        tiles = -(-case.queries // max(rows, 1)) * -(-case.batch // samples)
        size = samples * rows * case.keys * case.itemsize
        width, depth = case.width, case.depth
        # The backward pass computes the logits again.
        work = case.pairs * pick(case, width + depth, 4 * width + 3 * depth)
        passes = pick(case, *self.passes)
        if case.device == 'cpu':  # where exponentials are no passing matter
            passes *= 1.5
        # Every tile reads key and values again.
        again = samples * case.keys * (width + depth) * case.itemsize
        one = Cost(
            work,
            (
                cached(size, tiles * passes, machine),
                (again, tiles * pick(case, 1, 4)),
            ),
            tiles * pick(case, *self.calls) + pick(case, 4, 12),
        )
        return one.times(case.times).and_(around(case))

    def run(self, affinity, values: Map, weight: Tensor | None, plus: Tensor | None):
        rows = wants_rows(values)
        query, key, values = (
            operand(as_tensor(map_)) for map_ in (affinity.query, affinity.key, values)
        )
        # One dtype for the products; the values' would round nothing that is left.
        query, key = query.to(values.dtype), key.to(values.dtype)
        if key is query:  # Dynamo takes no tensor twice
            key = key.view_as(key)
        scale = affinity.scale
        if self.relu and scale < 0:  # relu(s z) = s relu(z) for s >= 0 alone
            scale, values = -scale, -values
        tile = tile_sizes(*query.shape[:2], key.shape[1], machine_for(query))
        out, *_ = TiledRows.apply(query, key, values, scale, self.relu, *tile, rows)
        return mix(out, weight, plus, rows)


class ReLUTiles(RowTiles):
    """ReLU of the products in row tiles, in memory linear in N + M."""

    name = 'relu_tiles'
    relu = True
    passes = 2, 5
    calls = 5, 18


ROW_TILES, RELU_TILES = RowTiles(), ReLUTiles()
