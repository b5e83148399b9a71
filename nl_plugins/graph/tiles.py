# Copyright (c) The nl_plugins authors. All rights reserved.
"""Attention in tiles: the N x M weights exist one tile at a time, forward and backward.

The forward pass keeps each row's peak and sum, the backward pass computes the weights
again from them. Any width of query, key and values, on any device.

Shapes: query (B, N, C), key (B, M, C), values (B, M, D); results are channel-first in
memory, as feature maps are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dispatch import nominal

# Elements of one tile. On a CPU a tile stays in cache between the two products; a GPU
# wants fewer, larger kernels. Fixed numbers keep results reproducible.
TILE_ELEMENTS = {'cpu': 2**21, 'cuda': 2**26}
MIN_ROWS = 64
# Side of the square tiles that serve a row block and a column block at once.
SQUARE = 512
# Logits come in powers of two: on a CPU exp2 takes 40 us a tile of 512 x 512 where exp
# takes 110, and up to 3800 where results underflow.
LOG2_E = math.log2(math.e)


def tile_rows(batch: int, keys: int, device: torch.device) -> int:
    """Query positions a tile, from the sizes alone."""
    elements = TILE_ELEMENTS['cpu' if device.type == 'cpu' else 'cuda']
    return max(MIN_ROWS, elements // max(1, nominal(batch) * keys))


def spans(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _channel_first(like: Tensor, positions: int, channels: int) -> Tensor:
    return like.new_zeros(like.shape[0], channels, positions).mT


def exponentials(logits: Tensor) -> tuple[Tensor, Tensor]:
    """``2^(logits - peak)`` and the rows' peaks.

    Peak and sum are kept apart: a logarithm of the sum would round to the digits of
    the logits, and every weight of the row with it.
    """
    peak = logits.amax(-1, keepdim=True)
    return (logits - peak).exp2_(), peak


class TiledSoftmax(torch.autograd.Function):
    """``softmax(scale query keyᵀ) values`` in row tiles."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, values: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        step = tile_rows(query.shape[0], key.shape[1], query.device)
        outs, peaks, totals = [], [], []
        for span in spans(query.shape[1], step):
            weights, peak = exponentials((query[:, span] * (scale * LOG2_E)) @ key.mT)
            total = weights.sum(-1, keepdim=True)
            outs.append(values.mT @ weights.mT / total.mT)
            peaks.append(peak)
            totals.append(total)
        return torch.cat(outs, dim=2).mT, torch.cat(peaks, 1), torch.cat(totals, 1)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        query, key, values, ctx.scale = inputs
        ctx.save_for_backward(query, key, values, *output)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, *_) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, values, out, peak, total = ctx.saved_tensors
        step = tile_rows(query.shape[0], key.shape[1], query.device)
        grad = grad / total
        delta = (grad * out).sum(-1, keepdim=True)
        grad_queries = []
        grad_key = torch.zeros_like(key.mT)
        grad_values = torch.zeros_like(values.mT)
        for span in spans(query.shape[1], step):
            logits = (query[:, span] * (ctx.scale * LOG2_E)) @ key.mT
            weights = (logits - peak[:, span]).exp2_()
            grad_values += grad[:, span].mT @ weights
            slope = (grad[:, span] @ values.mT - delta[:, span]).mul_(weights)
            grad_queries.append(key.mT @ slope.mT)
            grad_key += query[:, span].mT @ slope
        grad_query = torch.cat(grad_queries, dim=2).mT * ctx.scale
        return grad_query, grad_key.mT * ctx.scale, grad_values.mT, None


class TiledReLU(torch.autograd.Function):
    """``scale relu(query keyᵀ) values`` in row tiles."""

    generate_vmap_rule = True

    @staticmethod
    def forward(query: Tensor, key: Tensor, values: Tensor, scale: float) -> Tensor:
        step = tile_rows(query.shape[0], key.shape[1], query.device)
        outs = [
            values.mT @ torch.relu_(query[:, span] @ key.mT).mT
            for span in spans(query.shape[1], step)
        ]
        return torch.cat(outs, dim=2).mT * scale

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.scale = inputs[3]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, values = ctx.saved_tensors
        step = tile_rows(query.shape[0], key.shape[1], query.device)
        grad = grad * ctx.scale
        grad_queries = []
        grad_key = torch.zeros_like(key.mT)
        grad_values = torch.zeros_like(values.mT)
        for span in spans(query.shape[1], step):
            weights = torch.relu_(query[:, span] @ key.mT)
            grad_values += grad[:, span].mT @ weights
            slope = (grad[:, span] @ values.mT).masked_fill_(weights == 0, 0)
            grad_queries.append(key.mT @ slope.mT)
            grad_key += query[:, span].mT @ slope
        grad_query = torch.cat(grad_queries, dim=2).mT
        return grad_query, grad_key.mT, grad_values.mT, None


class SquareSoftmax(torch.autograd.Function):
    """``softmax(scale features featuresᵀ) values``: query and key are one tensor.

    The logits are symmetric, so a tile off the diagonal serves its row block and, as
    its transpose, its column block: 1.5 matrix products over all pairs instead of 2
    forward, 3.5 instead of 5 backward.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        features: Tensor, values: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        blocks = list(spans(features.shape[1], SQUARE))
        out = [
            _channel_first(values, s.stop - s.start, values.shape[2]) for s in blocks
        ]
        top = [
            features.new_full((features.shape[0], o.shape[1], 1), -math.inf)
            for o in out
        ]
        total = [torch.zeros_like(t) for t in top]

        def accumulate(row: int, logits: Tensor, column: slice) -> None:
            peak = torch.maximum(top[row], logits.amax(-1, keepdim=True))
            decay = (top[row] - peak).exp2_()
            weights = (logits - peak).exp2_()
            total[row] = total[row] * decay + weights.sum(-1, keepdim=True)
            out[row] = out[row] * decay + (values[:, column].mT @ weights.mT).mT
            top[row] = peak

        for i, row in enumerate(blocks):
            scaled = features[:, row] * (scale * LOG2_E)
            for j in range(i, len(blocks)):
                logits = scaled @ features[:, blocks[j]].mT
                accumulate(i, logits, blocks[j])
                if j != i:
                    accumulate(j, logits.mT, row)
        out = torch.cat([(o / s).mT for o, s in zip(out, total)], dim=2).mT
        return out, torch.cat(top, dim=1), torch.cat(total, dim=1)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        features, values, ctx.scale = inputs
        ctx.save_for_backward(features, values, *output)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, *_) -> tuple[Tensor, Tensor, None]:
        features, values, out, peak, total = ctx.saved_tensors
        grad = grad / total
        delta = (grad * out).sum(-1, keepdim=True)
        grad_features = torch.zeros_like(features.mT)
        grad_values = torch.zeros_like(values.mT)

        def slope(logits: Tensor, row: slice, column: slice) -> Tensor:
            weights = (logits - peak[:, row]).exp2_()
            grad_values[:, :, column] += grad[:, row].mT @ weights
            difference = (grad[:, row] @ values[:, column].mT).sub_(delta[:, row])
            return difference.mul_(weights)

        blocks = list(spans(features.shape[1], SQUARE))
        for i, row in enumerate(blocks):
            scaled = features[:, row] * (ctx.scale * LOG2_E)
            for column in blocks[i:]:
                logits = scaled @ features[:, column].mT
                both = slope(logits, row, column)
                if column is row:
                    both = both + both.mT
                    grad_features[:, :, row] += features[:, row].mT @ both
                else:
                    both += slope(logits.mT, column, row).mT
                    grad_features[:, :, row] += features[:, column].mT @ both.mT
                    grad_features[:, :, column] += features[:, row].mT @ both
        return grad_features.mT * ctx.scale, grad_values.mT, None
