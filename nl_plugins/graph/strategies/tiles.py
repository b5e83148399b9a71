# Copyright (c) The nl_plugins authors. All rights reserved.
"""Attention in row tiles: the N x M weights exist one tile at a time.

The forward pass keeps each row's peak and sum, the backward pass computes the weights
again from them. Any width of query, key and values, on any device.

Shapes: query (B, N, C), key (B, M, C), values (B, M, D).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

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

MIN_ROWS = 64
# Logits come in powers of two: on a CPU exp2 takes 40 us a tile of 512 x 512 where exp
# takes 110, and up to 3800 where results underflow.
LOG2_E = math.log2(math.e)
# Smaller shares of a row are 0: of weights below the smallest normal number products
# are 10 to 30 times slower.
LOWEST = -100


def tile_rows(batch: int, keys: int, machine: Machine) -> int:
    """Query positions a tile, from the sizes alone."""
    return max(MIN_ROWS, machine.tile // max(1, nominal(batch) * keys))


def spans(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def exponentials(logits: Tensor, peak: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``2^(logits - peak)``, in the memory of the logits, and the rows' peaks.

    Peak and sum are kept apart: a logarithm of the sum would round to the digits of
    the logits, and every weight of the row with it.
    """
    if peak is None:
        peak = logits.amax(-1, keepdim=True)
    return F.threshold_(logits.sub_(peak), LOWEST, -math.inf).exp2_(), peak


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


def add(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """``total + a @ b`` in at least float32, in the memory of ``total``."""
    if total is None:
        return float32_product(a, b)
    if a.dtype in HALF:
        return total.add_(float32_product(a, b))
    return total.baddbmm_(a, b)


def logits_of(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """``scale query keyᵀ`` to base 2."""
    factor = scale * LOG2_E
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


def by_matrix(weights: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """``weights(query keyᵀ) values`` as a function of the three."""

    def definition(query: Tensor, key: Tensor, values: Tensor) -> Tensor:
        query, key, values = map(at_least_float32, (query, key, values))
        return weights(query @ transposed(key)) @ values

    return definition


class TiledSoftmax(torch.autograd.Function):
    """``softmax(scale query keyᵀ) values`` in tiles of ``step`` rows."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, values: Tensor, scale: float, step: int, rows: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        half = values.dtype in HALF
        count = query.shape[1]
        out = room(count, values.shape[2], rows, query, key, values)
        peaks, totals = (room(count, 1, rows, query, key) for _ in range(2))
        for span in spans(count, step):
            weights, peak = exponentials(logits_of(query[:, span], key, scale))
            total = weights.sum(-1, keepdim=True)
            if half:  # shares of 1 keep more digits than powers of two do
                weights = weights.div_(total).to(values.dtype)
            tile = tile_product(weights, values, rows)
            out[:, span] = tile if half else tile.div_(total)
            peaks[:, span], totals[:, span] = peak, total
        return out, peaks, totals

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        query, key, values, ctx.scale, ctx.step, _ = inputs
        ctx.save_for_backward(query, key, values, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx, grad: Tensor, *_) -> tuple:
        query, key, values, peak, total = ctx.saved_tensors
        if wants_graph():
            definition = by_matrix(lambda logits: (ctx.scale * logits).softmax(-1))
            grads = gradients(definition, (query, key, values), grad)
            return *grads, None, None, None
        low = values.dtype
        half = low in HALF
        grad = grad if half else grad / total
        grad_query = room(*query.shape[1:], False, query, key, values, grad)
        grad_key = grad_values = None
        for span in spans(query.shape[1], ctx.step):
            some, chosen, sums = grad[:, span].to(low), query[:, span], total[:, span]
            weights, _ = exponentials(logits_of(chosen, key, ctx.scale), peak[:, span])
            slope = float32_product(some, transposed(values))
            if half:
                weights, sums = weights.div_(sums), 1
            slope = softmax_slope(weights, slope, sums).to(low)
            weights = weights.to(low)
            grad_values = add(grad_values, transposed(some), weights)
            grad_query[:, span] = tile_product(slope, key)
            grad_key = add(grad_key, transposed(chosen), slope)
        grad_key = transposed(grad_key)
        grads = grad_query * ctx.scale, grad_key * ctx.scale, transposed(grad_values)
        return *(g.to(low) for g in grads), None, None, None


class TiledReLU(torch.autograd.Function):
    """``scale relu(query keyᵀ) values`` in tiles of ``step`` rows."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, values: Tensor, scale: float, step: int, rows: bool
    ) -> Tensor:
        low = values.dtype
        out = room(query.shape[1], values.shape[2], rows, query, key, values)
        for span in spans(query.shape[1], step):
            weights = torch.relu_(float32_product(query[:, span], transposed(key)))
            if low in HALF:
                weights = weights.mul_(scale).to(low)
            out[:, span] = tile_product(weights, values, rows)
        return out if low in HALF else out * scale

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.scale, ctx.step = inputs[3:5]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        query, key, values = ctx.saved_tensors
        if wants_graph():
            definition = by_matrix(lambda logits: ctx.scale * logits.relu())
            grads = gradients(definition, (query, key, values), grad)
            return *grads, None, None, None
        low = values.dtype
        scale = ctx.scale if low in HALF else 1
        grad = grad if low in HALF else grad * ctx.scale
        grad_query = room(*query.shape[1:], False, query, key, values, grad)
        grad_key = grad_values = None
        for span in spans(query.shape[1], ctx.step):
            some, chosen = grad[:, span].to(low), query[:, span]
            weights = torch.relu_(float32_product(chosen, transposed(key)))
            slope = float32_product(some, transposed(values))
            slope = slope.masked_fill_(weights == 0, 0)
            if low in HALF:
                weights, slope = weights.mul_(scale).to(low), slope.mul_(scale).to(low)
            grad_values = add(grad_values, transposed(some), weights)
            grad_query[:, span] = tile_product(slope, key)
            grad_key = add(grad_key, transposed(chosen), slope)
        grads = grad_query, transposed(grad_key), transposed(grad_values)
        return *(g.to(low) for g in grads), None, None, None


class RowTiles(Strategy):
    """Softmax in row tiles, in memory linear in N + M.

    Args:
        function (type): The autograd function.
        passes (tuple[float, float]): Passes over a tile besides its products, forward
            and step.
        calls (tuple[float, float]): Operators a tile.
    """

    name = 'row_tiles'

    def __init__(
        self,
        function: type[torch.autograd.Function] = TiledSoftmax,
        passes: tuple[float, float] = (9, 21),
        calls: tuple[float, float] = (10, 28),
    ) -> None:
        self.function = function
        self.passes, self.calls = passes, calls

    def refuses(self, case: Case) -> str | None:
        return 'an exported graph would hold every tile' if case.captured else None

    def cost(self, case: Case, machine: Machine) -> Cost:
        rows = min(tile_rows(case.batch, case.keys, machine), case.queries)
        tiles = -(-case.queries // max(rows, 1))
        size = case.batch * rows * case.keys * case.itemsize
        width, depth = case.width, case.depth
        # The backward pass computes the logits again.
        work = case.pairs * pick(case, width + depth, 4 * width + 3 * depth)
        passes = pick(case, *self.passes)
        if case.device == 'cpu':  # where exponentials are no passing matter
            passes *= 1.5
        # Every tile reads key and values again.
        again = case.batch * case.keys * (width + depth) * case.itemsize
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
        if affinity.same:  # Dynamo takes no tensor twice
            key = key.view_as(key)
        step = tile_rows(query.shape[0], key.shape[1], machine_for(query))
        out = self.function.apply(query, key, values, affinity.scale, step, rows)
        if isinstance(out, tuple):
            out = out[0]
        return mix(out, weight, plus, rows)


class ReLUTiles(RowTiles):
    """ReLU of the products in row tiles, in memory linear in N + M."""

    name = 'relu_tiles'


ROW_TILES = RowTiles()
RELU_TILES = ReLUTiles(TiledReLU, passes=(2, 7), calls=(5, 18))
