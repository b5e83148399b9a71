# Copyright (c) The nl_plugins authors. All rights reserved.
"""The affinity operator: a linear map from key positions to query positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import dispatch
from .dispatch import at_least_float32, nominal

# Up to here one product of merged samples beats one product a sample, copy included.
FEW_POSITIONS = 64

# With fewer, a large `weight @ columns` takes twice as long as `rows @ weightᵀ`.
FEW_COLUMNS = 16

# Without gradients a convolution beats a merged product from here on, by the work or
# by the size of the weight.
MANY_MULTIPLICATIONS = 2**25
LARGE_WEIGHT = 2**19

#: Weight (D, C) and bias (D,) or None of a map of channels.
LinearMap = tuple[Tensor, Tensor | None]


def channel_first_matmul(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    """``a @ b + plus`` whose memory is channel-first, (B, channels, positions).

    Feature maps arrive channel-first, so a result laid out like them joins the
    residual sum and the next convolution without a transposing copy. With gradients
    off a ``plus`` of the result's shape is overwritten by the result.
    """
    if plus is None:
        return torch.bmm(b.mT, a.mT).mT
    if not torch.is_grad_enabled() and plus.shape == (*a.shape[:2], b.shape[2]):
        return plus.mT.baddbmm_(b.mT, a.mT).mT
    return torch.baddbmm(plus.mT, b.mT, a.mT).mT


def mix(
    values: Tensor,
    weight: Tensor,
    plus: Tensor | None = None,
    channels_last: bool = False,
) -> Tensor:
    """``values @ weight.mT + plus``: a 1x1 convolution of (B, N, D) by (D_out, D).

    ``plus`` is anything that broadcasts to the result, a bias (D_out,) for one.
    With ``channels_last`` the channels of a position are neighbours in memory, as
    fused attention and the selection of positions want them; not on a small map.
    """
    convolve = convolves(values, weight)
    if convolve or merges(values, weight):
        bias = plus if plus is not None and plus.ndim == 1 else None
        if convolve:
            out = F.conv1d(values.mT, weight.unsqueeze(2), bias).mT
        else:
            # linear() reads channel-first memory a tenth slower than it is copied.
            out = F.linear(values.contiguous(), weight, bias)
        return out if plus is None or bias is not None else out + plus
    # A matrix a sample, all at one address: torch.matmul would merge batch and
    # positions, which copies channel-first memory.
    weights = weight.unsqueeze(0)  # the gradient of one sample's expand() is a copy
    weights = weights.expand(values.shape[0], -1, -1)
    if channels_last and values.shape[1] > FEW_POSITIONS:
        if plus is None:
            return torch.bmm(values, weights.mT)
        return torch.baddbmm(plus, values, weights.mT)
    if plus is None:
        return torch.bmm(weights, values.mT).mT
    if plus.ndim == 1:
        return torch.baddbmm(plus.unsqueeze(1), weights, values.mT).mT
    return channel_first_matmul(values, weights.mT, plus)


def merges(values: Tensor, weight: Tensor) -> bool:
    """Whether :func:`mix` takes the positions of all samples as rows of one product."""
    batch, positions = nominal(values.shape[0]), values.shape[1]
    if batch == 1:
        return positions < FEW_COLUMNS and weight.numel() >= 2**15
    return positions <= FEW_POSITIONS or _weight_gradient_is_large(values, weight)


def mixes_rows(values: Tensor, weight: Tensor) -> bool:
    """Whether :func:`mix` reads a product of ``values`` best position by position."""
    return values.stride(2) == 1 and merges(values, weight)


def convolves(values: Tensor, weight: Tensor) -> bool:
    """Whether :func:`mix` is a convolution, which copies no map: wide ones on a CPU.

    Without gradients where the map is small; with them where a merged product would
    copy channel-first maps there and back, from eight samples on.
    """
    if values.device.type != 'cpu':
        return False
    batch, positions = nominal(values.shape[0]), values.shape[1]
    if not torch.is_grad_enabled():
        large = batch > 1 and weight.numel() >= LARGE_WEIGHT
        many = batch * positions * weight.numel() >= MANY_MULTIPLICATIONS
        # It would copy a map of other strides, and part of a weight.
        as_is = values.stride(1) == 1 and weight.is_contiguous()
        return positions <= FEW_POSITIONS and as_is and (many or large)
    return (
        batch >= 8
        and weight.numel() > 2**14
        and values.stride(1) == 1
        and merges(values, weight)
    )


def _weight_gradient_is_large(values: Tensor, weight: Tensor) -> bool:
    """Whether the weight's gradients, one a sample, outgrow values and result."""
    depth_out, depth = weight.shape
    return (
        weight.requires_grad
        and torch.is_grad_enabled()
        and values.shape[1] * (depth + depth_out) < depth * depth_out
    )


def scaled_product(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """``scale query keyᵀ`` (B, N, M) without a pass over it for the factor."""
    if scale == 1:
        return torch.bmm(query, key.mT)
    zero = query.new_zeros(1, 1, 1)
    return torch.baddbmm(zero, query, key.mT, beta=0, alpha=scale)


def concat_channels(*tensors: Tensor) -> Tensor:
    """Concatenate (B, positions, channels) along channels, channel-first in memory."""
    return torch.cat([tensor.mT for tensor in tensors], dim=-2).mT


class Affinity:
    """The weights A (B, N, M) between N query and M key positions, as an operator.

    Nothing is computed at construction. ``affinity @ values`` maps (B, M, D) to
    (B, N, D) exactly and in memory linear in N + M; ``dense()`` and
    ``rows(index)`` build the matrix, or some rows of it, for a test or a picture.

    Code that torch.compile should trace calls ``apply(values)``, which is the same:
    Dynamo does not trace ``@`` between an object and a tensor.

    A subclass sets ``shape``, ``dtype``, ``device`` (see :meth:`_describe`) and
    defines ``_dense()``, ``_rows(index)`` and ``_apply(values)``; these see values
    of at least float32 (unless ``takes_half``) and no autocast. Tensors are
    (B, positions, channels).
    """

    shape: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device
    takes_half = False  # whether _apply accumulates half-precision values in float32

    def _describe(self, reference: Tensor, num_queries: int, num_keys: int) -> None:
        self.shape = (reference.shape[0], num_queries, num_keys)
        self.dtype, self.device = reference.dtype, reference.device

    # What a subclass defines.
    def _dense(self) -> Tensor:
        raise NotImplementedError(f'{type(self).__name__} does not define _dense()')

    def _rows(self, index: Tensor) -> Tensor:
        return self._dense()[:, index]

    def _apply(self, values: Tensor) -> Tensor:
        raise NotImplementedError(f'{type(self).__name__} does not define _apply()')

    def _dense_is_cheaper(self, depth: int) -> bool:
        """Whether the matrix pays for ``depth`` channels; see docs/en/benchmarks.md."""
        return False

    def _apply_weighted(
        self, values: Tensor, weight: Tensor, plus: Tensor | None
    ) -> Tensor:
        out = self._apply(values)
        plus = None if plus is None else plus.to(out.dtype)
        return mix(out, weight.to(out.dtype), plus)

    def transpose(self) -> Affinity:
        """The affinity whose matrix is the transpose of this one's.

        Raises:
            TypeError: If the transpose is not an affinity of this package.
        """
        raise TypeError(f'the transpose of {type(self).__name__} is not defined')

    # What a user calls.
    def __matmul__(self, values: Tensor) -> Tensor:
        return self.apply(values)

    def apply(
        self,
        values: Tensor,
        weight: Tensor | None = None,
        plus: Tensor | None = None,
    ) -> Tensor:
        """``(A @ values) @ weight.mT + plus`` in the cheapest order.

        Args:
            values (Tensor): (B, M, D).
            weight (Tensor, optional): (D_out, D), a 1x1 convolution that follows.
            plus (Tensor, optional): (B, N or 1, D_out), what the result is added to;
                with gradients off its memory may hold the result afterwards.

        Returns:
            Tensor: (B, N, D), or (B, N, D_out) with ``weight``.

        Raises:
            ValueError: If ``values`` is not (B, M, D), or ``weight`` not (D_out, D).
        """
        self._check_values(values, weight)
        dtype = values.dtype
        with dispatch.full_precision(self.device):
            dense = dispatch.use_dense(self, values.shape[2])
            if dense or not self.takes_half:
                values = at_least_float32(values)
            if weight is not None:
                weight = weight.to(values.dtype)
            if plus is not None:
                plus = plus.to(values.dtype)
            if dense:
                rows = weight is not None and mixes_rows(values, weight)
                multiply = torch.bmm if rows else channel_first_matmul
                out = multiply(self._dense(), values)
                if weight is not None:
                    out, plus = mix(out, weight, plus), None
            elif weight is None:
                out = self._apply(values)
            else:
                out, plus = self._apply_weighted(values, weight, plus), None
            if plus is not None:
                out = out + plus
        return out.to(dtype)

    def dense(self) -> Tensor:
        """The matrix itself, (B, N, M)."""
        with dispatch.full_precision(self.device):
            return self._dense().to(self.dtype)

    def rows(self, index: Tensor | Sequence[int]) -> Tensor:
        """Rows ``index`` of the matrix, (B, len(index), M), without the others."""
        index = torch.as_tensor(index, dtype=torch.long, device=self.device)
        with dispatch.full_precision(self.device):
            return self._rows(index).to(self.dtype)

    def __add__(self, other: Affinity) -> Affinity:
        return SumAffinity(self, other)

    def _check_values(self, values: Tensor, weight: Tensor | None) -> None:
        batch, _, keys = self.shape
        if values.ndim != 3 or values.shape[:2] != (batch, keys):
            raise ValueError(
                f'{type(self).__name__} of shape {tuple(self.shape)} applies to values '
                f'({batch}, {keys}, channels), but got {tuple(values.shape)}'
            )
        if values.device != self.device:
            raise ValueError(
                f'{type(self).__name__} is on {self.device}, but values are on '
                f'{values.device}: move one of them'
            )
        if weight is not None and (
            weight.ndim != 2 or weight.shape[1] != values.shape[2]
        ):
            raise ValueError(
                f'weight must be (out_channels, {values.shape[2]}) for values '
                f'{tuple(values.shape)}, but got {tuple(weight.shape)}'
            )

    def __repr__(self) -> str:
        return f'{type(self).__name__}{tuple(self.shape)}'


class MatrixAffinity(Affinity):
    """An affinity given by its matrix (B, N, M)."""

    def __init__(self, matrix: Tensor) -> None:
        self._describe(matrix, *matrix.shape[1:])
        self.matrix = matrix

    def _dense(self) -> Tensor:
        return at_least_float32(self.matrix)

    def _apply(self, values: Tensor) -> Tensor:
        return channel_first_matmul(self._dense(), values)


class SumAffinity(Affinity):
    """``A_1 + A_2 + ...``: applied term by term."""

    def __init__(self, *terms: Affinity) -> None:
        shapes = [tuple(term.shape) for term in terms]
        if len(set(shapes)) != 1:
            raise ValueError(f'a sum of affinities needs one shape, but got {shapes}')
        self.terms = terms
        self.shape, self.dtype = terms[0].shape, terms[0].dtype
        self.device = terms[0].device

    def _dense(self) -> Tensor:
        return sum(term._dense() for term in self.terms)

    def _rows(self, index: Tensor) -> Tensor:
        return sum(term._rows(index) for term in self.terms)

    def _apply(self, values: Tensor) -> Tensor:
        return sum(term.apply(values) for term in self.terms)

    def transpose(self) -> Affinity:
        return SumAffinity(*(term.transpose() for term in self.terms))


def check_pair(name: str, query: Tensor, key: Tensor) -> None:
    """Raise ValueError unless query is (B, N, C) and key (B, M, C) on one device."""
    if query.ndim != 3 or key.ndim != 3:
        raise ValueError(
            f'{name} needs query (B, N, C) and key (B, M, C), but got '
            f'{tuple(query.shape)} and {tuple(key.shape)}'
        )
    if query.shape[0] != key.shape[0] or query.shape[2] != key.shape[2]:
        raise ValueError(
            f'{name} needs query and key of one batch size and width, but got '
            f'{tuple(query.shape)} and {tuple(key.shape)}'
        )
    if query.device != key.device:
        raise ValueError(
            f'{name} needs query and key on one device, but got {query.device} and '
            f'{key.device}'
        )
