# Copyright (c) The nl_plugins authors. All rights reserved.
"""The affinity operator: a linear map from key positions to query positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .lazy import Map, as_tensor, common_source, lowered
from .plan import Strategy, choose
from .precision import at_least_float32, full_precision, operand, product_dtype
from .strategies.matrix import OPERATOR, Matrix


class Affinity:
    """The weights A (B, N, M) between N query and M key positions, as an operator.

    Nothing is computed at construction. ``affinity @ values`` maps (B, M, D) to
    (B, N, D) exactly and in memory linear in N + M; ``dense()`` and
    ``rows(index)`` build the matrix, or some rows of it, for a test or a picture.

    Code that torch.compile should trace calls ``apply(values)``, which is the same:
    Dynamo does not trace ``@`` between an object and a tensor.

    A subclass sets ``shape``, ``dtype``, ``device`` (see :meth:`_describe`) and
    defines ``_dense()``, ``_rows(index)`` and either ``_apply(values)`` or
    ``strategies``, the ways of computing it that the planner chooses from, of which
    the first never refuses. These see values of at least float32 on a CPU and no
    autocast. Tensors are (B, positions, channels). What the planner reads besides,
    ``width``, ``rank``, ``grid`` and ``source(values)``, is said in
    :class:`.plan.Case`.
    """

    shape: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device
    strategies: tuple[Strategy, ...] = (OPERATOR, Matrix(1, 3, pairwise=False))
    width = 0
    rank = 0
    grid: tuple[int, ...] = ()

    def _describe(self, reference: Map, num_queries: int, num_keys: int) -> None:
        self.shape = (reference.shape[0], num_queries, num_keys)
        self.dtype, self.device = reference.dtype, reference.device

    def source(self, values: Map) -> int:
        """See :class:`.plan.Case`."""
        return 0

    # What a subclass defines.
    def _dense(self) -> Tensor:
        raise NotImplementedError(f'{type(self).__name__} does not define _dense()')

    def _rows(self, index: Tensor) -> Tensor:
        return self._dense()[:, index]

    def _apply(self, values: Tensor) -> Tensor:
        raise NotImplementedError(f'{type(self).__name__} does not define _apply()')

    def _lower(self, dtype: torch.dtype) -> None:
        """Keep the operands of products in ``dtype``, as autocast does on a GPU."""

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
        values: Map,
        weight: Tensor | None = None,
        plus: Tensor | None = None,
    ) -> Tensor:
        """``(A @ values) @ weightᵀ + plus`` in the cheapest way.

        Args:
            values (Map): (B, M, D), a tensor or a linear map of one.
            weight (Tensor, optional): (D_out, D), a 1x1 convolution that follows.
            plus (Tensor, optional): (B, N or 1, D_out), what the result is added to;
                with gradients off its memory may hold the result afterwards.

        Returns:
            Tensor: (B, N, D) in the dtype of ``values``, or (B, N, D_out) with
            ``weight``, which of half-precision values is float32: what follows, a
            norm or a sum, wants its digits.

        Raises:
            ValueError: If ``values`` is not (B, M, D), or ``weight`` not (D_out, D).
        """
        self._check_values(values, weight)
        dtype, low = values.dtype, product_dtype(self.device)
        if low is not None:
            self._lower(low)
            values = lowered(values, low)
        strategy = choose(self, values, weight)
        plus = None if plus is None else at_least_float32(plus)
        with full_precision(self.device):
            out = strategy.run(self, values, weight, plus)
        return out.to(dtype) if weight is None else at_least_float32(out)

    def dense(self) -> Tensor:
        """The matrix itself, (B, N, M)."""
        with full_precision(self.device):
            return self._dense().to(self.dtype)

    def rows(self, index: Tensor | Sequence[int]) -> Tensor:
        """Rows ``index`` of the matrix, (B, len(index), M), without the others."""
        index = torch.as_tensor(index, dtype=torch.long, device=self.device)
        with full_precision(self.device):
            return self._rows(index).to(self.dtype)

    def __add__(self, other: Affinity) -> Affinity:
        return SumAffinity(self, other)

    def _check_values(self, values: Map, weight: Tensor | None) -> None:
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

    strategies = (Matrix(0, 0, calls=(0, 0), pairwise=False),)

    def __init__(self, matrix: Tensor) -> None:
        self._describe(matrix, *matrix.shape[1:])
        self.matrix = matrix

    def _dense(self) -> Tensor:
        return self.matrix

    def transpose(self) -> MatrixAffinity:
        return MatrixAffinity(self.matrix.transpose(1, 2))


class PairAffinity(Affinity):
    """An affinity of query (B, N, C) and key (B, M, C)."""

    def __init__(self, query: Map, key: Map) -> None:
        name = type(self).__name__
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
        self._describe(query, query.shape[1], key.shape[1])
        self.query, self.key = query, key
        self.width = query.shape[2]

    def _lower(self, dtype: torch.dtype) -> None:
        query = lowered(self.query, dtype)
        self.key = query if self.key is self.query else lowered(self.key, dtype)
        self.query, self.dtype = query, query.dtype

    def source(self, values: Map) -> int:
        first = common_source(self.query, self.key, values)
        return 0 if first is None else first.weight.shape[1]

    def pair(self) -> tuple[Tensor, Tensor]:
        """Query and key as factors of a product."""
        return operand(as_tensor(self.query)), operand(as_tensor(self.key))


class SumAffinity(Affinity):
    """``A_1 + A_2 + ...``: applied term by term."""

    def __init__(self, *terms: Affinity) -> None:
        shapes = [tuple(term.shape) for term in terms]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f'a sum of affinities needs one shape, but got {shapes}')
        self.terms = terms
        self.shape, self.dtype = terms[0].shape, terms[0].dtype
        self.device = terms[0].device

    def apply(
        self, values: Map, weight: Tensor | None = None, plus: Tensor | None = None
    ) -> Tensor:
        # The last is often of one row, which the others are added to.
        for term in reversed(self.terms):
            plus = term.apply(values, weight, plus)
        return plus

    def _dense(self) -> Tensor:
        return sum(term._dense() for term in self.terms)

    def _rows(self, index: Tensor) -> Tensor:
        return sum(term._rows(index) for term in self.terms)

    def transpose(self) -> Affinity:
        return SumAffinity(*(term.transpose() for term in self.terms))
