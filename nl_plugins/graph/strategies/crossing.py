# Copyright (c) The nl_plugins authors. All rights reserved.
"""Criss-cross attention along rows and columns, a few grid rows at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..lazy import Map, as_tensor
from ..machine import Machine, machine_for
from ..plan import Case, Cost, Strategy
from ..precision import at_least_float32, nominal, operand
from ..products import float32_product, mix, transposed
from .costs import around, pick
from .tiles import LOG2_E, exponentials, softmax_slope, spans, tile_rows
from .twice import gradients, wants_graph


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of (B, X, n, k) and (B, X, k, m), in at least float32."""
    out = float32_product(a.flatten(0, 1), b.flatten(0, 1))
    return out.unflatten(0, a.shape[:2])


def _logits(query: Tensor, key: Tensor, span: slice) -> Tensor:
    """Logits (B, h, W, H + W) of the grid rows ``span``, column part first.

    The position itself lies in its row and in its column; the column part omits it.
    """
    height = key.shape[1]
    chosen = query[:, span]
    columns = key.permute(0, 2, 3, 1)
    column = _product(chosen.transpose(1, 2), columns).transpose(1, 2)  # (B, h, W, H)
    row = _product(chosen, transposed(key[:, span]))  # (B, h, W, W)
    positions = torch.arange(height, device=query.device)
    itself = positions[span, None, None] == positions
    column = column.masked_fill(itself, -math.inf)
    return torch.cat([column, row], dim=-1)


def _weights(query: Tensor, key: Tensor, span: slice) -> Tensor:
    """The softmax of the logits, without a gradient."""
    weights, _ = exponentials(_logits(query, key, span).mul_(LOG2_E))
    return weights.div_(weights.sum(-1, keepdim=True))


def _apply(weights: Tensor, values: Tensor, span: slice) -> Tensor:
    """The sums of values (B, H, W, D) by the weights of the grid rows ``span``."""
    column, row = weights.split(values.shape[1:3], dim=-1)
    out = _product(column.transpose(1, 2), values.transpose(1, 2)).transpose(1, 2)
    return out + _product(row, values[:, span])


def _definition(query: Tensor, key: Tensor, values: Tensor) -> Tensor:
    query, key, values = map(at_least_float32, (query, key, values))
    everything = slice(0, key.shape[1])
    return _apply(_logits(query, key, everything).softmax(-1), values, everything)


class CrissCross(torch.autograd.Function):
    """Criss-cross attention of maps (B, H, W, C), ``step`` grid rows at a time."""

    generate_vmap_rule = True

    @staticmethod
    def forward(query: Tensor, key: Tensor, values: Tensor, step: int) -> Tensor:
        outs = []
        for span in spans(key.shape[1], step):
            weights = _weights(query, key, span).to(values.dtype)
            outs.append(_apply(weights, values, span))
        return torch.cat(outs, 1)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        *tensors, ctx.step = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        query, key, values = ctx.saved_tensors
        if wants_graph():
            return *gradients(_definition, (query, key, values), grad), None
        low, (height, width) = values.dtype, key.shape[1:3]
        rows: list[list[Tensor]] = []
        grad_keys, grad_values = 0, 0  # what columns give, for all grid rows
        # Slopes of a row sum to 0: without the mean of the keys less has to cancel.
        centred = key - key.mean((1, 2), keepdim=True)
        key_columns, value_columns = centred.transpose(1, 2), values.permute(0, 2, 3, 1)
        for span in spans(height, ctx.step):
            weights = _weights(query, key, span)
            some = grad[:, span].to(low)
            across = some.transpose(1, 2)  # (B, W, h, D)
            slope = torch.cat(
                [
                    _product(across, value_columns).transpose(1, 2),
                    _product(some, transposed(values[:, span])),
                ],
                dim=-1,
            )
            slope = softmax_slope(weights, slope, 1).to(low)
            column, row = weights.to(low).split([height, width], dim=-1)
            column_slope, row_slope = slope.split([height, width], dim=-1)
            column, column_slope = column.transpose(1, 2), column_slope.transpose(1, 2)
            chosen = query[:, span]
            grad_values = grad_values + _product(transposed(column), across)
            grad_keys = grad_keys + _product(
                transposed(column_slope), chosen.transpose(1, 2)
            )
            rows.append(
                [
                    _product(row_slope, centred[:, span])
                    + _product(column_slope, key_columns).transpose(1, 2),
                    _product(transposed(row_slope), chosen),
                    _product(transposed(row), some),
                ]
            )
        grad_query, key_rows, value_rows = (torch.cat(parts, 1) for parts in zip(*rows))
        grads = (
            grad_query,
            grad_keys.transpose(1, 2) + key_rows,
            grad_values.transpose(1, 2) + value_rows,
        )
        return *(g.to(low) for g in grads), None


class Crossing(Strategy):
    """Products along rows and columns: N (H + W)(C + D) instead of N² (C + D)."""

    name = 'crossing'

    def cost(self, case: Case, machine: Machine) -> Cost:
        height, width = case.grid
        positions = case.batch * case.queries
        pairs = positions * (height + width)
        step = self._step(case.batch, case.grid, case.width + case.depth, machine)
        tiles = -(-height // step)
        size = case.batch * step * width * (height + width) * case.itemsize
        channels, depth = case.width, case.depth
        maps = positions * (2 * channels + depth) * case.itemsize
        one = Cost(
            pairs * pick(case, channels + depth, 4 * channels + 3 * depth),
            (
                (size, tiles * pick(case, 20, 60)),
                (maps, pick(case, 8, 24)),
            ),
            tiles * pick(case, 30, 90) + 10,
        )
        return one.times(case.times).and_(around(case))

    def _step(
        self, batch: int, grid: tuple[int, ...], channels: int, machine: Machine
    ) -> int:
        """Grid rows at a time: no more than the tile of the machine, and, so that
        memory stays linear on small maps too, no more than what comes in; but a
        quarter of a MiB is nothing."""
        height, width = grid
        batch = nominal(batch)
        rows = tile_rows(batch, height + width, machine) // width
        largest = max(height * width * channels, 2**16 // max(batch, 1))
        return max(1, min(rows, largest // (width * (height + width)), height))

    def run(self, affinity, values: Map, weight: Tensor | None, plus: Tensor | None):
        query, key, values = (
            operand(as_tensor(map_)) for map_ in (affinity.query, affinity.key, values)
        )
        maps = [
            map_.to(values.dtype).unflatten(1, affinity.grid).contiguous()
            for map_ in (query, key, values)
        ]
        channels = query.shape[2] + values.shape[2]
        step = self._step(query.shape[0], affinity.grid, channels, machine_for(values))
        out = CrissCross.apply(*maps, step).flatten(1, 2)
        return mix(out, weight, plus)


CROSSING = Crossing()
