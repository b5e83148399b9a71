# Copyright (c) The nl_plugins authors. All rights reserved.
"""Affinities of low rank: the matrix is a product of two tall factors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .affinity import (
    Affinity,
    LinearMap,
    channel_first_matmul,
    check_pair,
    concat_channels,
    mix,
    scaled_product,
)
from .dispatch import at_least_float32, debugging


class LowRankAffinity(Affinity):
    """``A = L Rᵀ``, L (B, N, r), R (B, M, r): ``A v = L (Rᵀ v)``.

    Cost r D (N + M) instead of N M (r + D); no matrix is built. A subclass defines
    ``rank`` r, ``left`` and ``context(values)`` = Rᵀ v, (B, r, D).
    """

    rank: int

    @property
    def left(self) -> Tensor:
        """L (B, N, r)."""
        raise NotImplementedError(f'{type(self).__name__} does not define left')

    def context(self, values: Tensor) -> Tensor:
        """``Rᵀ v`` (B, r, D) of values (B, M, D)."""
        raise NotImplementedError(f'{type(self).__name__} does not define context()')

    def _apply(self, values: Tensor) -> Tensor:
        return channel_first_matmul(self.left, self.context(values))

    def _apply_weighted(
        self, values: Tensor, weight: Tensor, plus: Tensor | None
    ) -> Tensor:
        rank, (depth_out, depth) = self.rank, weight.shape
        if rank * depth_out > depth * (rank + depth_out):
            return mix(self._apply(values), weight, plus)
        # The weight joins the small context, so one product over positions is saved.
        return channel_first_matmul(self.left, mix(self.context(values), weight), plus)


class DotAffinity(LowRankAffinity):
    """``A_ij = scale q_i·k_j``, unnormalised (Wang et al. 2018, eq. 4).

    Args:
        query (Tensor): (B, N, C).
        key (Tensor): (B, M, C).
        scale (float, optional): Factor; None means 1 / M. Defaults to None.
    """

    def __init__(self, query: Tensor, key: Tensor, scale: float | None = None) -> None:
        check_pair('DotAffinity', query, key)
        self._describe(query, query.shape[1], key.shape[1])
        self.query, self.key = query, key
        self.scale = 1 / key.shape[1] if scale is None else scale
        self.rank = query.shape[2]

    @property
    def left(self) -> Tensor:
        return at_least_float32(self.query)

    def context(self, values: Tensor) -> Tensor:
        return at_least_float32(self.key).mT @ values * self.scale

    def _dense(self) -> Tensor:
        return scaled_product(self.left, at_least_float32(self.key), self.scale)

    def _rows(self, index: Tensor) -> Tensor:
        key = at_least_float32(self.key)
        return scaled_product(self.left[:, index], key, self.scale)

    def _dense_is_cheaper(self, depth: int) -> bool:
        _, queries, keys = self.shape
        width = self.query.shape[2]
        # Multiplications, and 18 rows of either side for calling two more products.
        factors = (queries + keys) * (width * depth + 18 * (width + depth))
        return queries * keys * (width + depth) < factors

    def transpose(self) -> DotAffinity:
        return DotAffinity(self.key, self.query, self.scale)


def gram(x: Tensor) -> Tensor:
    """``xᵀ x`` (B, C, C) of x (B, N, C).

    On a CPU the products of wide x skip what lies below the diagonal: 5/8 of them.
    """
    channels = x.shape[2]
    if x.device.type != 'cpu' or channels < 256 or channels % 4:
        return x.mT @ x
    blocks = x.chunk(4, dim=2)
    rows: list[Tensor] = []
    for i, block in enumerate(blocks):
        mirrored = [row.chunk(4, dim=2)[i].mT for row in rows]
        right = block.mT @ x[:, :, i * (channels // 4) :]
        rows.append(torch.cat([*mirrored, right], dim=2))
    return torch.cat(rows, dim=1)


class Moments(torch.autograd.Function):
    """``xᵀ x`` (B, C, C) and ``Σ_i x_i`` (B, C) of x (B, N, C).

    The gradient is ``x (G + Gᵀ) + s``: one product, where a product of two tensors
    would take two.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return gram(x), x.sum(1)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, square: Tensor, total: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.baddbmm(total.unsqueeze(-1), square + square.mT, x.mT).mT


def projected_dot(
    x: Tensor, query: LinearMap, key: LinearMap, values: LinearMap, weight: Tensor
) -> tuple[Tensor, Tensor | None]:
    """``DotAffinity(query(x), key(x)).apply(values(x), weight)`` for linear maps of x.

    The context keyᵀ values is a map of the channels' Gram matrix xᵀ x, and what
    follows it one map of x: two products over positions of width C replace five, and
    no projection is stored. It pays where positions outnumber channels.

    Args:
        x (Tensor): (B, N, C).
        query (tuple): Weight (D, C) and bias (D,) or None; likewise ``key`` and
            ``values``.
        weight (Tensor): (D_out, D).

    Returns:
        tuple: S (B, C, D_out) and s (B, 1, D_out) or None: the result is x S + s.
    """
    positions = x.shape[1]
    gram, total = Moments.apply(x)
    context = key[0] @ gram @ values[0].mT
    if key[1] is not None:
        context = context + key[1].unsqueeze(-1) * mix(total.unsqueeze(1), values[0])
    if values[1] is not None:
        projected = mix(total.unsqueeze(1), key[0])
        if key[1] is not None:
            projected = projected + positions * key[1]
        context = context + projected.mT * values[1]
    context = context @ weight.mT / positions
    constant = None if query[1] is None else (query[1] @ context).unsqueeze(1)
    return query[0].mT @ context, constant


class SymmetricAffinity(LowRankAffinity):
    """``A = D^-1/2 M D^-1/2``, ``M = (Q Kᵀ + K Qᵀ) / 2``, ``D = diag(M 1)``.

    Q and K are non-negative, so A has non-negative entries, spectrum in [-1, 1] and
    the normalised Laplacian I - A spectrum in [0, 2] (SNL, Zhu et al. 2021). A
    position of degree zero has a zero row and a zero column. With U = [Q K] the
    matrix is ½ U swap(U)ᵀ, where swap exchanges the two halves: degrees cost one
    column sum, and A v costs two products of width 2 C.

    Args:
        query (Tensor): Q (B, N, C), non-negative.
        key (Tensor): K (B, N, C), non-negative.
        symmetric (bool): False keeps M = Q Kᵀ with its row sums on both sides.
            Defaults to True.
    """

    def __init__(self, query: Tensor, key: Tensor, symmetric: bool = True) -> None:
        check_pair('SymmetricAffinity', query, key)
        if query.shape != key.shape:
            raise ValueError(
                'SymmetricAffinity needs query and key at the same positions, but got '
                f'{tuple(query.shape)} and {tuple(key.shape)}'
            )
        if debugging() and (query.min() < 0 or key.min() < 0):
            raise ValueError(
                'SymmetricAffinity needs non-negative query and key, but their minima '
                f'are {query.min():.3g} and {key.min():.3g}: apply a relu first'
            )
        self._describe(query, query.shape[1], key.shape[1])
        self.query, self.key = query, key
        self.symmetric = symmetric
        self.rank = query.shape[2] * (2 if symmetric else 1)
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
            left, right = at_least_float32(self.query), at_least_float32(self.key)
            features = self._features
            may_write = not (
                features is None or features.requires_grad or torch.is_grad_enabled()
            )
            scale = Tensor.mul_ if may_write else torch.mul
            if self.symmetric:
                if features is None:
                    left = concat_channels(left, right)
                else:
                    left = at_least_float32(features)
                total = swap_halves(left.sum(1)) / 2
                degree = channel_first_matmul(left, total.unsqueeze(-1))
                left = scale(left, inverse_sqrt(degree))
                right = left
            else:
                degree = channel_first_matmul(left, right.sum(1).unsqueeze(-1))
                root = inverse_sqrt(degree)
                left, right = scale(left, root), scale(right, root)
            self._factors = left, right
        return self._factors

    @property
    def left(self) -> Tensor:
        return self.factors()[0]

    def context(self, values: Tensor) -> Tensor:
        context = self.factors()[1].mT @ values
        return swap_halves(context) / 2 if self.symmetric else context

    def _dense(self) -> Tensor:
        if self._features is not None and self._factors is not None:
            return self._rows(slice(None))  # query and key may hold the factors now
        query, key = at_least_float32(self.query), at_least_float32(self.key)
        matrix = query @ key.mT
        if self.symmetric:
            matrix = (matrix + matrix.mT) / 2
        root = inverse_sqrt(matrix.sum(2, keepdim=True))
        return root * matrix * root.mT

    def _rows(self, index: Tensor) -> Tensor:
        left, right = self.factors()
        if self.symmetric:
            right = swap_halves(right.mT).mT / 2
        return left[:, index] @ right.mT

    def _dense_is_cheaper(self, depth: int) -> bool:
        _, positions, width = self.query.shape
        # Multiplications; what the factors cost besides weighs like 36 rows of A.
        dense = positions * (width + depth)
        return dense < 2 * self.rank * depth + 36 * (width + depth)

    def transpose(self) -> Affinity:
        if self.symmetric:
            return self
        return super().transpose()


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

    def __init__(self, weights: Tensor, num_queries: int) -> None:
        if weights.ndim != 2:
            raise ValueError(
                f'UnaryAffinity needs weights (B, M), but got {tuple(weights.shape)}'
            )
        self._describe(weights, num_queries, weights.shape[1])
        self.weights = weights
        self.rank = 1

    @property
    def left(self) -> Tensor:
        batch, queries, _ = self.shape
        return (
            at_least_float32(self.weights).new_ones(1, 1, 1).expand(batch, queries, 1)
        )

    def context(self, values: Tensor) -> Tensor:
        return at_least_float32(self.weights).unsqueeze(1) @ values

    def _apply(self, values: Tensor) -> Tensor:
        return self.context(values).expand(-1, self.shape[1], -1)

    def _apply_weighted(
        self, values: Tensor, weight: Tensor, plus: Tensor | None
    ) -> Tensor:
        out = mix(self.context(values), weight)
        out = out if plus is None else out + plus
        return out.expand(-1, self.shape[1], -1)

    def _dense(self) -> Tensor:
        return at_least_float32(self.weights).unsqueeze(1).expand(*self.shape)

    def _rows(self, index: Tensor) -> Tensor:
        return self._dense()[:, index]


class CompactAffinity(LowRankAffinity):
    """``A_ij = Σ_k c_k q_i^k p_j^k`` over scalar nodes (CGNL, Yue et al. 2018).

    The nodes are positions x channels of a group; a polynomial kernel of two scalars
    is a feature map of its powers, so A has rank len(coefficients).

    Args:
        query (Tensor): q (B, N, 1).
        key (Tensor): p (B, M, 1).
        coefficients (tuple[float]): c_0, c_1, ...; the default (0, 1) is the dot
            kernel, ``taylor_coefficients`` gives those of the RBF kernel.
    """

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        coefficients: tuple[float, ...] = (0.0, 1.0),
    ) -> None:
        check_pair('CompactAffinity', query, key)
        if query.shape[2] != 1:
            raise ValueError(
                'CompactAffinity needs scalar nodes (B, N, 1), but got '
                f'{tuple(query.shape)}'
            )
        if not coefficients:
            raise ValueError('CompactAffinity needs at least one coefficient')
        self._describe(query, query.shape[1], key.shape[1])
        self.query, self.key, self.coefficients = query, key, tuple(coefficients)
        self.rank = len(self.coefficients)

    @property
    def left(self) -> Tensor:
        return self._powers(self.query)

    def context(self, values: Tensor) -> Tensor:
        scaled = self._powers(self.key).mT @ values
        return scaled * scaled.new_tensor(self.coefficients).unsqueeze(-1)

    def _powers(self, nodes: Tensor) -> Tensor:
        nodes = at_least_float32(nodes)
        return torch.cat([nodes**k for k in range(len(self.coefficients))], dim=-1)

    def _apply(self, values: Tensor) -> Tensor:
        # Horner's rule for the powers of q, none of which is stored. A matrix product
        # of width one sums in sequence and loses digits over millions of nodes.
        query, key = at_least_float32(self.query), at_least_float32(self.key)
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

    def _apply_weighted(
        self, values: Tensor, weight: Tensor, plus: Tensor | None
    ) -> Tensor:
        return mix(self._apply(values), weight, plus)

    def _dense(self) -> Tensor:
        coefficients = self.query.new_tensor(self.coefficients)
        powers = self._powers(self.query)
        return (powers * coefficients) @ self._powers(self.key).mT

    def _rows(self, index: Tensor) -> Tensor:
        chosen = CompactAffinity(self.query[:, index], self.key, self.coefficients)
        return chosen._dense()

    def transpose(self) -> CompactAffinity:
        return CompactAffinity(self.key, self.query, self.coefficients)
