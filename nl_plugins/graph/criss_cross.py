# Copyright (c) The nl_plugins authors. All rights reserved.
"""The criss-cross affinity: a softmax over the row and the column of a position."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .affinity import Affinity, check_pair
from .dispatch import at_least_float32, nominal
from .tiles import LOG2_E, exponentials, spans, tile_rows


def _logits(query: Tensor, key: Tensor, span: slice) -> Tensor:
    """Logits (B, h, W, H + W) of the grid rows ``span``, to base 2, column part first.

    The position itself lies in its row and in its column; the column part omits it.
    """
    height = key.shape[1]
    scaled = query[:, span] * LOG2_E
    column = scaled.transpose(1, 2) @ key.permute(0, 2, 3, 1)  # (B, W, h, H)
    row = scaled @ key[:, span].mT  # (B, h, W, W)
    positions = torch.arange(height, device=query.device)
    itself = positions[span, None] == positions
    column = column.masked_fill(itself, -math.inf).transpose(1, 2)
    return torch.cat([column, row], dim=-1)


class CrissCross(torch.autograd.Function):
    """Criss-cross attention of maps (B, H, W, C), a few grid rows at a time."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        outs, peaks, totals = [], [], []
        height = key.shape[1]
        columns = values.transpose(1, 2)
        for span in _row_spans(query, values):
            weights, peak = exponentials(_logits(query, key, span))
            total = weights.sum(-1, keepdim=True)
            column, row = weights.split([height, key.shape[2]], dim=-1)
            outs.append((column.transpose(1, 2) @ columns).transpose(1, 2))
            outs[-1] = (outs[-1] + row @ values[:, span]) / total
            peaks.append(peak)
            totals.append(total)
        return torch.cat(outs, 1), torch.cat(peaks, 1), torch.cat(totals, 1)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs, *output)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, *_) -> tuple[Tensor, Tensor, Tensor]:
        query, key, values, out, peak, total = ctx.saved_tensors
        grad = grad / total
        height, width = key.shape[1:3]
        delta = (grad * out).sum(-1, keepdim=True)
        grad_key, grad_values = torch.zeros_like(key), torch.zeros_like(values)
        grad_query = torch.empty_like(query)
        key_columns = key.transpose(1, 2)
        for span in _row_spans(query, values):
            weights = (_logits(query, key, span) - peak[:, span]).exp2_()
            some = grad[:, span]
            across = some.transpose(1, 2)  # (B, W, h, D)
            slope = torch.cat(
                [
                    (across @ values.permute(0, 2, 3, 1)).transpose(1, 2),
                    some @ values[:, span].mT,
                ],
                dim=-1,
            )
            slope = (slope - delta[:, span]) * weights
            column, row = weights.split([height, width], dim=-1)
            column_slope, row_slope = slope.split([height, width], dim=-1)
            column, column_slope = column.transpose(1, 2), column_slope.transpose(1, 2)
            chosen = query[:, span]
            grad_values += (column.mT @ across).transpose(1, 2)
            grad_values[:, span] += row.mT @ some
            grad_key += (column_slope.mT @ chosen.transpose(1, 2)).transpose(1, 2)
            grad_key[:, span] += row_slope.mT @ chosen
            grad_query[:, span] = row_slope @ key[:, span]
            grad_query[:, span] += (column_slope @ key_columns).transpose(1, 2)
        return grad_query, grad_key, grad_values


def _row_spans(query: Tensor, values: Tensor) -> list[slice]:
    batch, height, width, _ = query.shape
    rows = tile_rows(batch, height + width, query.device) // width
    # No tile larger than what comes in: memory stays linear on small maps too. But a
    # quarter of a MiB is nothing, and a call for less than that is.
    largest = max(query[0].numel(), values[0].numel(), 2**16 // nominal(batch))
    rows = min(rows, largest // (width * (height + width)))
    return list(spans(height, max(1, rows)))


class CrissCrossAffinity(Affinity):
    """Softmax of ``q_i·k_j`` over the H + W - 1 positions j in i's row or column.

    CCNet, Huang et al. 2019. Cost N (H + W)(C + D) instead of N² (C + D).

    Args:
        query (Tensor): (B, H W, C), positions row by row.
        key (Tensor): (B, H W, C).
        grid (tuple[int, int]): (H, W).
    """

    def __init__(self, query: Tensor, key: Tensor, grid: tuple[int, int]) -> None:
        check_pair('CrissCrossAffinity', query, key)
        if len(grid) != 2 or math.prod(grid) != query.shape[1]:
            raise ValueError(
                f'grid {tuple(grid)} must be (H, W) with H * W equal to the '
                f'{query.shape[1]} positions of query {tuple(query.shape)}'
            )
        if query.shape != key.shape:
            raise ValueError(
                'CrissCrossAffinity needs query and key at the same positions, but '
                f'got {tuple(query.shape)} and {tuple(key.shape)}'
            )
        self._describe(query, query.shape[1], key.shape[1])
        self.query, self.key, self.grid = query, key, tuple(grid)

    def _rows(self, index: Tensor) -> Tensor:
        query, key = at_least_float32(self.query), at_least_float32(self.key)
        width = self.grid[1]
        keys = torch.arange(key.shape[1], device=self.device)
        crossing = (index[:, None] // width == keys // width) | (
            index[:, None] % width == keys % width
        )
        logits = query[:, index] @ key.mT
        return logits.masked_fill(~crossing, -math.inf).softmax(-1)

    def _dense(self) -> Tensor:
        return self._rows(torch.arange(self.shape[1], device=self.device))

    def _dense_is_cheaper(self, depth: int) -> bool:
        batch, positions = nominal(self.shape[0]), self.shape[1]
        # Rows and columns cost more calls, however small they are.
        few = positions <= 130 + 400 / (batch + 2)
        # A multiplication a channel, and about 100 for the softmax of a pair; rows and
        # columns copy their values.
        pair = self.query.shape[2] + depth + 100
        crossing = sum(self.grid) * pair + 224 * depth
        return few or (positions <= 1024 and positions * pair < crossing)

    def _apply(self, values: Tensor) -> Tensor:
        query, key = at_least_float32(self.query), at_least_float32(self.key)
        maps = (t.unflatten(1, self.grid).contiguous() for t in (query, key, values))
        return CrissCross.apply(*maps)[0].flatten(1, 2)
