# Copyright (c) The nl_plugins authors. All rights reserved.
"""Sums over the pairs that pass a ReLU of a sum, by sorting."""

from __future__ import annotations

import torch
from torch import Tensor

from ..lazy import Map, as_tensor, wants_rows
from ..machine import Machine
from ..plan import Case, Cost, Strategy
from ..precision import at_least_float32, nominal
from ..products import mix
from .costs import around, pick
from .twice import gradients, wants_graph

# From so many numbers on torch sorts one long vector of integers by radix.
RADIX = 2**15


def _sort(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of (B, M) from its largest number, and from where: b M + m, (B, M)."""
    if not _radix_sorts(rows):
        ordered, order = rows.sort(dim=-1, descending=True, stable=True)
        return ordered, order + _first(rows)
    # Bits of a float, those of a negative one but the sign reversed, order as integers.
    bits = (-rows).view(torch.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    owner = torch.arange(rows.shape[0]).unsqueeze(1) << 32
    order = (bits + (owner + 2**31)).flatten().argsort()
    return rows.flatten().index_select(0, order).view_as(rows), order.view_as(rows)


def _radix_sorts(rows: Tensor) -> bool:
    long = nominal(rows.shape[0]) * rows.shape[1] >= RADIX
    return rows.device.type == 'cpu' and rows.dtype == torch.float32 and long


def _first(rows: Tensor) -> Tensor:
    """Where each row of (B, M) begins, b M, (B, 1)."""
    batch, count = rows.shape
    return torch.arange(batch, device=rows.device).unsqueeze(1) * count


def _take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Of rows (B, M, D) those at index (B, N), counted through the batch."""
    taken = rows.reshape(-1, rows.shape[2]).index_select(0, index.flatten())
    return taken.view(*index.shape, -1)


def prefix_sums(rows: Tensor) -> Tensor:
    """Sums of rows (B, M, D) over the first 1, 2, ... M; the memory may be reused.

    torch's own of floats is not deterministic on a GPU; where that is asked for, the
    partial sums double their length instead, log2 M times.
    """
    if rows.device.type != 'cuda' or not torch.are_deterministic_algorithms_enabled():
        return rows.cumsum_(1)
    reach = 1
    while reach < rows.shape[1]:
        rows = torch.cat([rows[:, :reach], rows[:, reach:] + rows[:, :-reach]], dim=1)
        reach *= 2
    return rows


def _sums_above(threshold: Tensor, b: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """``Σ_{j: b_j > -a_i} v_j`` and ``Σ_{j: b_j > -a_i} b_j v_j`` for a = threshold.

    Sorted by falling b the sums over j become prefix sums, and one binary search
    finds where each prefix ends. Values (B, M, D), results (B, N, D).
    """
    ordered, order = _sort(b)
    count = torch.searchsorted(-ordered, threshold.contiguous())
    end, any_passes = (count - 1).clamp_min(0), (count > 0).unsqueeze(2)
    end += _first(b)
    values = _take_rows(values, order)
    weighted = values * ordered.unsqueeze(2)
    plain = _take_rows(prefix_sums(values), end).mul_(any_passes)
    del values
    return plain, _take_rows(prefix_sums(weighted), end).mul_(any_passes)


def _definition(a: Tensor, b: Tensor, values: Tensor) -> Tensor:
    return torch.relu(a.unsqueeze(2) + b.unsqueeze(1)) @ values


class SortedReLU(torch.autograd.Function):
    """``y_i = Σ_j relu(a_i + b_j) v_j``, values (B, M, D) -> (B, N, D).

    With S0, S1 the sums of v and b v over the j that pass the relu,
    ``y_i = a_i S0_i + S1_i``. The gradient of v is the same operator with a and b
    exchanged, so neither pass scatters.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        # a_i S0 + S1 cancels when b has a large mean: move the mean to a.
        mean = b.mean(-1, keepdim=True)
        plain, weighted = _sums_above(a + mean, b - mean, values)
        return torch.addcmul(weighted, plain, (a + mean).unsqueeze(2)), plain

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx, grad: Tensor, _) -> tuple[Tensor, Tensor, Tensor]:
        a, b, values, plain = ctx.saved_tensors
        if wants_graph():
            return gradients(_definition, (a, b, values), grad)
        mean = a.mean(-1, keepdim=True)
        reverse, weighted = _sums_above(b + mean, a - mean, grad)
        return (
            (grad * plain).sum(2),
            (values * reverse).sum(2),
            torch.addcmul(weighted, reverse, (b + mean).unsqueeze(2)),
        )


class Sorted(Strategy):
    """Sort b once, add up along the order: (N + M)(D + log M) instead of N M D."""

    name = 'sorted'

    def cost(self, case: Case, machine: Machine) -> Cost:
        positions = case.batch * (case.queries + case.keys)
        size = positions * case.depth * case.itemsize
        numbers = positions * case.itemsize
        one = Cost(
            0,
            # A random read, and the sequence of an addition, cost several passes.
            ((size, pick(case, 16, 34)), (numbers, pick(case, 600, 1200))),
            pick(case, 45, 70),
        )
        return one.times(case.times).and_(around(case))

    def run(self, affinity, values: Map, weight: Tensor | None, plus: Tensor | None):
        rows = wants_rows(values)
        # Sums over positions: half precision has not the digits for them. Its rows
        # are selected, so channels are best neighbours.
        values = at_least_float32(as_tensor(values, rows=True))
        # A factor of a and b, which are one channel wide, scales the relu.
        a, b = (
            at_least_float32(numbers).to(values.dtype) * abs(affinity.scale)
            for numbers in (affinity.a, affinity.b)
        )
        values = values if affinity.scale >= 0 else -values
        out = SortedReLU.apply(a, b, values)[0]
        return mix(out, weight, plus, rows)


SORTED = Sorted()
