# Copyright (c) The nl_plugins authors. All rights reserved.
"""Softmax of symmetric logits in square tiles: query and key are one tensor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..lazy import Map, as_tensor, wants_rows
from ..machine import Machine
from ..plan import Case, Cost, Strategy
from ..precision import at_least_float32
from ..products import mix, transposed
from .costs import around, pick
from .tiles import exponentials, logits_of, room, spans
from .twice import softmax_gradients, wants_graph

# Side of the tiles, which serve a row block and a column block at once.
SIDE = 512


class SquareSoftmax(torch.autograd.Function):
    """``softmax(scale features featuresᵀ) values``.

    The logits are symmetric, so a tile off the diagonal serves its row block and, as
    its transpose, its column block: 1.5 matrix products over all pairs instead of 2
    forward, 3.5 instead of 5 backward.

    The slopes of a row add up to zero. The backward pass sees a row in pieces, so it
    leaves out the slope of the row's largest weight, which may be 1, and gives it at
    the end what the others add up to: no digit is lost to cancellation.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        features: Tensor, values: Tensor, scale: float, rows: bool, grad: bool
    ) -> tuple[Tensor, ...]:
        blocks = list(spans(features.shape[1], SIDE))
        sizes = [block.stop - block.start for block in blocks]
        batch = features.shape[0]
        top = [features.new_full((batch, n, 1), -math.inf) for n in sizes]
        where = [torch.zeros_like(t, dtype=torch.long) for t in top]
        total = [torch.zeros_like(t) for t in top]
        out = [values.new_zeros(batch, values.shape[2], n) for n in sizes]

        def accumulate(row: int, logits: Tensor, column: slice) -> None:
            if grad:
                peak, index = logits.max(-1, keepdim=True)
                where[row] = torch.where(
                    peak > top[row], index + column.start, where[row]
                )
            else:
                peak = logits.amax(-1, keepdim=True)
            peak = torch.maximum(top[row], peak)
            decay = (top[row] - peak).exp2_()
            weights, top[row] = exponentials(logits, peak)
            total[row] = total[row] * decay + weights.sum(-1, keepdim=True)
            part = torch.bmm(transposed(values[:, column]), transposed(weights))
            out[row] = out[row] * transposed(decay) + part

        for i, row in enumerate(blocks):
            for j in range(i, len(blocks)):
                logits = logits_of(features[:, row], features[:, blocks[j]], scale)
                accumulate(i, logits, blocks[j])
                if j != i:
                    accumulate(j, transposed(logits), row)
        joined = room(*values.shape[1:], rows, features, values)
        for block, part, share in zip(blocks, out, total):
            joined[:, block] = transposed(part) / share
        stats = (torch.cat(parts, dim=1) for parts in (top, total, where))
        return joined, *stats

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        features, values, ctx.scale, *_ = inputs
        ctx.save_for_backward(features, values, *output)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx, grad: Tensor, *_) -> tuple:
        features, values, out, peak, total, where = ctx.saved_tensors
        if wants_graph():
            query, key, grad_values = softmax_gradients(
                features, features, values, ctx.scale, grad
            )
            return query + key, grad_values, None, None, None
        grad = grad / total
        delta = (grad * out).sum(-1, keepdim=True)
        grad_features = torch.zeros_like(transposed(features))
        grad_values = torch.zeros_like(transposed(values))
        others = torch.zeros_like(delta)

        def slope(logits: Tensor, row: slice, column: slice) -> Tensor:
            weights, _ = exponentials(logits, peak[:, row])
            some = grad[:, row]
            grad_values[:, :, column] += torch.bmm(transposed(some), weights)
            slope = torch.bmm(some, transposed(values[:, column]))
            slope = slope.sub_(delta[:, row]).mul_(weights)
            index = where[:, row] - column.start
            inside = (index >= 0) & (index < slope.shape[2])
            index = index.clamp(0, slope.shape[2] - 1)
            kept = slope.gather(2, index).masked_fill(inside, 0)
            slope = slope.scatter(2, index, kept)
            others[:, row] += slope.sum(-1, keepdim=True)
            return slope

        blocks = list(spans(features.shape[1], SIDE))
        for i, row in enumerate(blocks):
            for column in blocks[i:]:
                logits = logits_of(features[:, row], features[:, column], ctx.scale)
                both = slope(logits, row, column)
                if column is row:
                    both = both + transposed(both)
                    grad_features[:, :, row] += torch.bmm(
                        transposed(features[:, row]), both
                    )
                else:
                    both += transposed(slope(transposed(logits), column, row))
                    grad_features[:, :, row] += torch.bmm(
                        transposed(features[:, column]), transposed(both)
                    )
                    grad_features[:, :, column] += torch.bmm(
                        transposed(features[:, row]), both
                    )
        index = where.expand_as(features)
        at_peak = features.gather(1, index)
        grad_features = transposed(grad_features) - others * at_peak
        grad_features = grad_features.scatter_add(1, index, -others * features)
        return grad_features * ctx.scale, transposed(grad_values), None, None, None


class SquareTiles(Strategy):
    """Three quarters of the products of row tiles, where logits are symmetric."""

    name = 'square_tiles'

    def refuses(self, case: Case) -> str | None:
        if not case.same:
            return 'query and key are not one tensor'
        if case.device != 'cpu':
            return 'on a GPU fewer, larger tiles are faster'
        return 'an exported graph would hold every tile' if case.captured else None

    def cost(self, case: Case, machine: Machine) -> Cost:
        side = min(SIDE, case.queries)
        blocks = -(-case.queries // SIDE)
        tiles = blocks * blocks
        size = case.batch * side * side * case.itemsize
        width, depth = case.width, case.depth
        share = (blocks + 1) / (2 * blocks)  # of the logits: the diagonal, and half
        work = case.pairs * pick(
            case, share * width + depth, (2 * share + 1) * width + 3 * depth
        )
        one = Cost(
            work,
            ((2 * size, (case.queries / side) ** 2 * pick(case, 8, 28)),),
            tiles * pick(case, 12, 36) + pick(case, 8, 20),
        )
        return one.times(case.times).and_(around(case))

    def run(self, affinity, values: Map, weight: Tensor | None, plus: Tensor | None):
        rows = wants_rows(values)
        values = at_least_float32(as_tensor(values))
        features = at_least_float32(as_tensor(affinity.query)).to(values.dtype)
        grad = torch.is_grad_enabled()
        out = SquareSoftmax.apply(features, values, affinity.scale, rows, grad)[0]
        return mix(out, weight, plus, rows)


SQUARE_TILES = SquareTiles()
