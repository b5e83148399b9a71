# Copyright (c) The nl_plugins authors. All rights reserved.
"""The concatenation affinity: relu(a_i + b_j) / M, by sorting."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .affinity import Affinity
from .dispatch import at_least_float32, nominal


def _sort(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of (B, M) from its largest number, and from where: b M + m, (B, M)."""
    if not _radix_sorts(rows):
        ordered, order = rows.sort(dim=-1, descending=True)
        return ordered, order + _first(rows)
    # Bits of a float, those of a negative one but the sign reversed, order as integers.
    bits = (-rows).view(torch.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    owner = torch.arange(rows.shape[0]).unsqueeze(1) << 32
    order = (bits + (owner + 2**31)).flatten().argsort()
    return rows.flatten().index_select(0, order).view_as(rows), order.view_as(rows)


def _first(rows: Tensor) -> Tensor:
    """Where each row of (B, M) begins, b M, (B, 1)."""
    batch, count = rows.shape
    return torch.arange(batch, device=rows.device).unsqueeze(1) * count


def _radix_sorts(rows: Tensor) -> bool:
    """Whether one long vector of integers is sorted faster than many short rows."""
    return (
        rows.device.type == 'cpu'
        and rows.dtype == torch.float32
        and nominal(rows.shape[0]) * rows.shape[1] >= 2**15  # torch's own threshold
    )


def _take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Of rows (B, M, D) those at index (B, N), counted through the batch."""
    taken = rows.reshape(-1, rows.shape[2]).index_select(0, index.flatten())
    return taken.view(*index.shape, -1)


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
    plain = _take_rows(values.cumsum_(1), end).mul_(any_passes)
    del values
    return plain, _take_rows(weighted.cumsum_(1), end).mul_(any_passes)


class SortedReLU(torch.autograd.Function):
    """``y_i = Σ_j relu(a_i + b_j) v_j``, values (B, M, D) -> (B, N, D).

    With S0, S1 the sums of v and b v over the j that pass the relu,
    ``y_i = a_i S0_i + S1_i``. The gradient of v is the same operator with a and b
    exchanged, so neither pass scatters: deterministic on every device.
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
    @once_differentiable
    def backward(ctx, grad: Tensor, _) -> tuple[Tensor, Tensor, Tensor]:
        a, b, values, plain = ctx.saved_tensors
        mean = a.mean(-1, keepdim=True)
        reverse, weighted = _sums_above(b + mean, a - mean, grad)
        return (
            (grad * plain).sum(2),
            (values * reverse).sum(2),
            torch.addcmul(weighted, reverse, (b + mean).unsqueeze(2)),
        )


class ConcatAffinity(Affinity):
    """``A_ij = relu(a_i + b_j) / M`` (Wang et al. 2018, eq. 5).

    Cost (N + M)(D + log M) by sorting b once (see :class:`SortedReLU`).

    Args:
        a (Tensor): (B, N), one number a query position.
        b (Tensor): (B, M), one number a key position.
        scale (float, optional): Factor; None means 1 / M. Defaults to None.
    """

    def __init__(self, a: Tensor, b: Tensor, scale: float | None = None) -> None:
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[0]:
            raise ValueError(
                'ConcatAffinity needs a (B, N) and b (B, M) of one batch size, but '
                f'got {tuple(a.shape)} and {tuple(b.shape)}'
            )
        if a.device != b.device:
            raise ValueError(
                f'ConcatAffinity needs a and b on one device, but got {a.device} and '
                f'{b.device}'
            )
        self._describe(a, a.shape[1], b.shape[1])
        self.a, self.b = a, b
        self.scale = 1 / b.shape[1] if scale is None else scale

    def _dense(self) -> Tensor:
        a, b = at_least_float32(self.a), at_least_float32(self.b)
        return torch.relu(a.unsqueeze(2) + b.unsqueeze(1)) * self.scale

    def _rows(self, index: Tensor) -> Tensor:
        return ConcatAffinity(self.a[:, index], self.b, self.scale)._dense()

    def _dense_is_cheaper(self, depth: int) -> bool:
        batch, queries, keys = nominal(self.shape[0]), *self.shape[1:]
        # In passes over a pair: sorting and searching 100 a position, calls 65,000.
        sorting = batch * (queries + keys) * 100 + 65_000
        return batch * queries * keys < sorting and keys <= 1024

    def _apply(self, values: Tensor) -> Tensor:
        # A factor of a and b, which are one channel wide, scales the relu.
        a, b = (at_least_float32(t) * abs(self.scale) for t in (self.a, self.b))
        return SortedReLU.apply(a, b, values if self.scale >= 0 else -values)[0]

    def transpose(self) -> ConcatAffinity:
        return ConcatAffinity(self.b, self.a, self.scale)
