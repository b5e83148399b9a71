# Copyright (c) The nl_plugins authors. All rights reserved.
"""Affinities of low rank: the matrix is a product of two tall factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .affinity import Affinity, PairAffinity
from .lazy import Map, as_tensor
from .precision import at_least_float32, debugging, may_learn, operand
from .products import concat_channels, product, transposed
from .strategies.factors import (
    BLOCK_GRAM,
    DOT_FACTORS,
    FACTORS,
    GRAM,
    ONE_ROW,
    RECURSION,
)
from .strategies.matrix import OPERATOR, Matrix


class LowRankAffinity(Affinity):
    """``A = L Rᵀ``, L (B, N, r), R (B, M, r): ``A v = L (Rᵀ v)``.

    Cost r D (N + M) instead of N M (r + D); no matrix is built. A subclass defines
    ``rank`` r, ``left`` and ``context(values)`` = Rᵀ v, (B, r, D).
    """

    strategies = (FACTORS, RECURSION, Matrix(1, 3))

    @property
    def left(self) -> Tensor:
        """L (B, N, r)."""
        raise NotImplementedError(f'{type(self).__name__} does not define left')

    def context(self, values: Tensor) -> Tensor:
        """``Rᵀ v`` (B, r, D) of values (B, M, D), in at least float32."""
        raise NotImplementedError(f'{type(self).__name__} does not define context()')


class DotAffinity(PairAffinity, LowRankAffinity):
    """``A_ij = scale q_i·k_j``, unnormalised (Wang et al. 2018, eq. 4).

    Args:
        query (Map): (B, N, C).
        key (Map): (B, M, C).
        scale (float, optional): Factor; None means 1 / M. Defaults to None.
    """

    strategies = (DOT_FACTORS, GRAM, BLOCK_GRAM, RECURSION, Matrix(1, 3))

    def __init__(self, query: Map, key: Map, scale: float | None = None) -> None:
        super().__init__(query, key)
        self.scale = 1 / key.shape[1] if scale is None else scale
        self.rank = self.width

    @property
    def left(self) -> Tensor:
        return self.pair()[0]

    def context(self, values: Tensor) -> Tensor:
        key = operand(as_tensor(self.key))
        values = values.to(key.dtype)
        return product(transposed(key), values, alpha=self.scale, rows=True)

    def _dense(self) -> Tensor:
        query, key = self.pair()
        return product(query, transposed(key), alpha=self.scale, rows=True)

    def _rows(self, index: Tensor) -> Tensor:
        query, key = self.pair()
        return product(query[:, index], transposed(key), alpha=self.scale)

    def transpose(self) -> DotAffinity:
        return DotAffinity(self.key, self.query, self.scale)


class SymmetricAffinity(PairAffinity, LowRankAffinity):
    """``A = D^-1/2 M D^-1/2``, ``M = (Q Kᵀ + K Qᵀ) / 2``, ``D = diag(M 1)``.

    Q and K are non-negative, so A has non-negative entries, spectrum in [-1, 1] and
    the normalised Laplacian I - A spectrum in [0, 2] (SNL, Zhu et al. 2021). A
    position of degree zero has a zero row and a zero column. With U = [Q K] the
    matrix is ½ U swap(U)ᵀ, where swap exchanges the two halves: degrees cost one
    column sum, and A v costs two products of width 2 C.

    Args:
        query (Map): Q (B, N, C), non-negative.
        key (Map): K (B, N, C), non-negative.
        symmetric (bool): False keeps M = Q Kᵀ with its row sums on both sides.
            Defaults to True.
    """

    strategies = (FACTORS, RECURSION, Matrix(10, 26, calls=(7, 20)))

    def __init__(self, query: Map, key: Map, symmetric: bool = True) -> None:
        super().__init__(query, key)
        if query.shape != key.shape:
            raise ValueError(
                'SymmetricAffinity needs query and key at the same positions, but got '
                f'{tuple(query.shape)} and {tuple(key.shape)}'
            )
        if debugging():
            lowest = [as_tensor(map_).min() for map_ in (query, key)]
            if min(lowest) < 0:
                raise ValueError(
                    'SymmetricAffinity needs non-negative query and key, but their '
                    f'minima are {lowest[0]:.3g} and {lowest[1]:.3g}: apply a relu '
                    'first'
                )
        self.symmetric = symmetric
        self.rank = self.width * (2 if symmetric else 1)
        self._features: Tensor | None = None
        self._factors: tuple[Tensor, Tensor] | None = None

    @classmethod
    def from_features(
        cls, features: Tensor, symmetric: bool = True
    ) -> SymmetricAffinity:
        """The affinity of Q and K side by side in memory, (B, N, 2 C).

        It takes the memory over: without gradients the factors are written there.
        """
        affinity = cls(*features.chunk(2, dim=-1), symmetric)
        affinity._features = features
        return affinity

    def factors(self) -> tuple[Tensor, Tensor]:
        """L, R (B, N, r) of A = L Rᵀ; L twice if symmetric: A = L swap(L)ᵀ / 2."""
        if self._factors is None:
            left, right = self.pair()
            features = self._features
            may_write = not (features is None or features.requires_grad or may_learn())
            scale = Tensor.mul_ if may_write else torch.mul
            if self.symmetric:
                left = concat_channels(left, right) if features is None else features
                left = operand(left)
                degree = _degrees(left, swap_halves(_column_sums(left)), 0.5)
                left = scale(left, inverse_sqrt(degree).to(left.dtype))
                right = left
            else:
                root = inverse_sqrt(_degrees(left, _column_sums(right)))
                root = root.to(left.dtype)
                left, right = scale(left, root), scale(right, root)
            self._factors = left, right
        return self._factors

    @property
    def left(self) -> Tensor:
        return self.factors()[0]

    def context(self, values: Tensor) -> Tensor:
        right, alpha = self.factors()[1], 0.5 if self.symmetric else 1.0
        values = values.to(right.dtype)
        context = product(transposed(right), values, alpha=alpha, rows=True)
        return swap_halves(context) if self.symmetric else context

    def _dense(self) -> Tensor:
        if self._features is not None and self._factors is not None:
            return self._rows(slice(None))  # query and key may hold the factors now
        query, key = self.pair()
        matrix = product(query, transposed(key), rows=True)
        if self.symmetric:
            matrix = (matrix + transposed(matrix)) / 2
        root = inverse_sqrt(matrix.sum(2, keepdim=True))
        return root * matrix * transposed(root)

    def _rows(self, index: Tensor | slice) -> Tensor:
        left, right = self.factors()
        right = transposed(right)
        if self.symmetric:
            right = swap_halves(right) / 2
        return product(left[:, index], right)

    def transpose(self) -> Affinity:
        return self if self.symmetric else super().transpose()


def _column_sums(features: Tensor) -> Tensor:
    """(B, C) in at least float32."""
    return features.sum(1, dtype=at_least_float32(features[:0]).dtype)


def _degrees(left: Tensor, total: Tensor, alpha: float = 1.0) -> Tensor:
    """``alpha left total`` (B, N, 1) in at least float32."""
    return product(left, total.unsqueeze(-1), alpha=alpha)


def swap_halves(rows: Tensor) -> Tensor:
    """Exchange the two halves of the channels, (B, 2 C) or (B, 2 C, D)."""
    # Not roll(): torch.jit.trace of torch 2.1 takes no traced size for its shift.
    first, second = rows.chunk(2, dim=1)
    return torch.cat([second, first], dim=1)


def inverse_sqrt(degree: Tensor) -> Tensor:
    """``d^-1/2`` where d > 0, else 0, with a finite gradient everywhere."""
    return torch.where(degree > 0, degree, math.inf).rsqrt()


class UnaryAffinity(LowRankAffinity):
    """``A_ij = w_j``: every query position weighs the keys alike.

    Args:
        weights (Tensor): w (B, M).
        num_queries (int): N.
    """

    strategies = (ONE_ROW,)
    rank = 1

    def __init__(self, weights: Tensor, num_queries: int) -> None:
        if weights.ndim != 2:
            raise ValueError(
                f'UnaryAffinity needs weights (B, M), but got {tuple(weights.shape)}'
            )
        self._describe(weights, num_queries, weights.shape[1])
        self.weights = weights

    @property
    def left(self) -> Tensor:
        batch, queries, _ = self.shape
        return operand(self.weights).new_ones(1, 1, 1).expand(batch, queries, 1)

    def context(self, values: Tensor) -> Tensor:
        row = operand(self.weights).unsqueeze(1)
        return product(row, values.to(row.dtype), rows=True)

    def _dense(self) -> Tensor:
        return at_least_float32(self.weights).unsqueeze(1).expand(*self.shape)

    def _rows(self, index: Tensor) -> Tensor:
        return self._dense()[:, index]


class CompactAffinity(PairAffinity, LowRankAffinity):
    """``A_ij = Σ_k c_k q_i^k p_j^k`` over scalar nodes (CGNL, Yue et al. 2018).

    The nodes are positions x channels of a group; a polynomial kernel of two scalars
    is a feature map of its powers, so A has rank len(coefficients).

    Args:
        query (Map): q (B, N, 1).
        key (Map): p (B, M, 1).
        coefficients (tuple[float]): c_0, c_1, ...; the default (0, 1) is the dot
            kernel, ``taylor_coefficients`` gives those of the RBF kernel.
    """

    strategies = (OPERATOR, Matrix(1, 3))

    def __init__(
        self,
        query: Map,
        key: Map,
        coefficients: tuple[float, ...] = (0.0, 1.0),
    ) -> None:
        super().__init__(query, key)
        if self.width != 1:
            raise ValueError(
                'CompactAffinity needs scalar nodes (B, N, 1), but got '
                f'{tuple(query.shape)}'
            )
        if not coefficients:
            raise ValueError('CompactAffinity needs at least one coefficient')
        self.coefficients = tuple(coefficients)
        self.rank = len(self.coefficients)

    @property
    def left(self) -> Tensor:
        return self._powers(self.query)

    def context(self, values: Tensor) -> Tensor:
        right = self._powers(self.key, self.coefficients)
        return transposed(right) @ at_least_float32(values)

    def _powers(self, nodes: Map, factors: Sequence[float] | None = None) -> Tensor:
        nodes = at_least_float32(as_tensor(nodes))
        powers = [nodes**k for k in range(self.rank)]
        if factors is not None:
            powers = [factor * power for factor, power in zip(factors, powers)]
        return torch.cat(powers, dim=-1)

    def _apply(self, values: Tensor) -> Tensor:
        # Horner's rule for the powers of q, none of which is stored. A matrix product
        # of width one sums in sequence and loses digits over millions of nodes.
        query, key = map(at_least_float32, map(as_tensor, (self.query, self.key)))
        sums = []
        for order, coefficient in enumerate(self.coefficients):
            if order:
                values = values * key
            used = coefficient != 0 or order == len(self.coefficients) - 1
            sums.append(values.sum(1, keepdim=True) * coefficient if used else None)
        out = sums.pop()
        for total in reversed(sums):
            out = out * query
            if total is not None:
                out = out + total
        return out.expand(-1, self.shape[1], -1)

    def _dense(self) -> Tensor:
        return self._rows(slice(None))

    def _rows(self, index: Tensor | slice) -> Tensor:
        right = self._powers(self.key, self.coefficients)
        return self.left[:, index] @ transposed(right)

    def transpose(self) -> CompactAffinity:
        return CompactAffinity(self.key, self.query, self.coefficients)
