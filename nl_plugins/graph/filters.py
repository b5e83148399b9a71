# Copyright (c) The nl_plugins authors. All rights reserved.
"""Filters: functions of an affinity, applied to values without ever building A².

An affinity is the adjacency A of a graph, ``L = I - A`` its Laplacian. Every filter
here is a function of A (B, N, N) applied to a signal g (B, N, D) by repeated use of
the operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import dispatch
from .affinity import (
    Affinity,
    MatrixAffinity,
    channel_first_matmul,
    concat_channels,
    mix,
    mixes_rows,
)
from .dispatch import at_least_float32, formulation, full_precision, is_open
from .dot import LowRankAffinity

# A batch of larger matrices is not safe in torch.linalg.solve on a CPU.
LARGEST_IN_A_BATCH = 64

# Up to here one solve of N³ beats the terms of a series, N² each.
FEW_POSITIONS_TO_SOLVE = 1024


def laplacian(affinity: Affinity, values: Tensor) -> Tensor:
    """``L g = g - A g`` (NS, Tao et al. 2018)."""
    return values - affinity.apply(values)


def chebyshev(
    affinity: Affinity,
    values: Tensor,
    weights: Sequence[Tensor | None],
) -> Tensor:
    """``Σ_k T_k(A) g W_kᵀ`` with T_0 = I, T_1 = A, T_k = 2 A T_{k-1} - T_{k-2}.

    Args:
        affinity (Affinity): A (B, N, N).
        values (Tensor): g (B, N, D).
        weights (Sequence[Tensor | None]): W_0 .. W_K, each (D_out, D); None leaves
            the term out.

    Returns:
        Tensor: (B, N, D_out).

    Raises:
        ValueError: If every weight is None.
    """
    if all(weight is None for weight in weights):
        raise ValueError('chebyshev needs at least one weight that is not None')
    if len(weights) > 2 and affinity.shape[1] != affinity.shape[2]:
        raise ValueError(
            'a filter of order 2 and more needs an affinity (B, N, N), but got '
            f'{affinity!r}'
        )
    if len(weights) > 2:
        affinity = built_once(affinity, values, len(weights) - 1)
    if isinstance(affinity, MatrixAffinity):
        return _matrix_chebyshev(affinity, values, weights)
    if _low_rank_pays(affinity, values, len(weights) - 1):
        return _low_rank_chebyshev(affinity, values, weights)
    *weights, last = weights
    if len(weights) > 1 and last is not None:
        # T_K = 2 A T_{K-1} - T_{K-2}: the second part joins the term of order K - 2.
        other = weights[-2]
        weights[-2] = -last if other is None else other - last
        last = 2 * last
    out = None
    previous, current = None, values
    for order, weight in enumerate(weights):
        if order == 1:
            previous, current = current, affinity.apply(current)
        elif order > 1:
            previous, current = current, 2 * affinity.apply(current) - previous
        if weight is not None:
            out = mix(current, weight.to(current.dtype), out)
    if last is None:
        return out
    if not weights:
        return mix(values, last.to(values.dtype))
    return affinity.apply(current, last, out)


def built_once(affinity: Affinity, values: Tensor, times: int) -> Affinity:
    """To be applied so many times: where the matrix pays, the matrix."""
    if isinstance(affinity, MatrixAffinity):
        return affinity
    if dispatch.use_dense(affinity, values.shape[2], times):
        with full_precision(values.device):
            return MatrixAffinity(affinity._dense())
    return affinity


def _matrix_chebyshev(
    affinity: MatrixAffinity, values: Tensor, weights: Sequence[Tensor | None]
) -> Tensor:
    """The filter for a matrix: 2 A T_{k-1} - T_{k-2} in one call each."""
    dtype = values.dtype
    with full_precision(values.device):
        matrix, current = affinity._dense(), at_least_float32(values)
        rows = mixes_rows(current, next(w for w in weights if w is not None))
        if not rows:
            matrix, current = matrix.mT, current.mT
        previous, out = None, None
        for order, weight in enumerate(weights):
            if order:
                pair = (matrix, current) if rows else (current, matrix)
                if order == 1:
                    term = torch.bmm(*pair)
                else:
                    term = torch.baddbmm(previous, *pair, beta=-1, alpha=2)
                previous, current = current, term
            if weight is not None:
                term = current if rows else current.mT
                out = mix(term, weight.to(term.dtype), out)
    return out.to(dtype)


def _low_rank_pays(affinity: Affinity, values: Tensor, order: int) -> bool:
    """Whether Rᵀ L, r x r, costs less than applying L Rᵀ order - 1 times more."""
    return (
        order > 1
        and isinstance(affinity, LowRankAffinity)
        and affinity.rank <= 2 * values.shape[2] * (order - 1)
    )


def _low_rank_chebyshev(
    affinity: LowRankAffinity, values: Tensor, weights: Sequence[Tensor | None]
) -> Tensor:
    """The filter for A = L Rᵀ: two passes over the positions whatever the order.

    Every T_k(A) g is ``α g + L q`` with q (B, r, D), and A maps it to
    ``L (α Rᵀ g + Rᵀ L q)``: the recursion runs on α and q.
    """
    dtype = values.dtype
    with full_precision(values.device):
        values = at_least_float32(values)
        context, square = affinity.context(values), affinity.context(affinity.left)
        terms = [(1, torch.zeros_like(context)), (0, context)]
        while len(terms) < len(weights):
            (before, q_before), (alpha, q) = terms[-2:]
            q = 2 * (square @ q + alpha * context) - q_before
            terms.append((-before, q))
        direct, through = None, None
        for order, ((alpha, q), weight) in enumerate(zip(terms, weights)):
            if weight is None:
                continue
            weight = weight.to(values.dtype)
            if alpha:
                direct = alpha * weight if direct is None else direct + alpha * weight
            if order:
                through = mix(q, weight, through)
        out = None if direct is None else mix(values, direct)
        return channel_first_matmul(affinity.left, through, out).to(dtype)


def arma(
    affinity: Affinity,
    values: Tensor,
    recurrent: Tensor,
    skip: Tensor,
    num_iterations: int,
    activation: Callable[[Tensor], Tensor] | None = torch.relu,
) -> Tensor:
    """``H_{t+1} = σ(A H_t V_aᵀ + g V_bᵀ)``, H_0 = g (Bianchi et al. 2021).

    Args:
        affinity (Affinity): A (B, N, N).
        values (Tensor): g (B, N, D).
        recurrent (Tensor): V_a (D, D).
        skip (Tensor): V_b (D, D).
        num_iterations (int): T.
        activation (Callable, optional): σ; None for the linear filter.

    Returns:
        Tensor: H_T (B, N, D).
    """
    skipped = mix(values, skip.to(values.dtype))
    hidden, affinity = values, built_once(affinity, values, num_iterations)
    for _ in range(num_iterations):
        hidden = affinity.apply(hidden, recurrent) + skipped
        if activation is not None:
            hidden = activation(hidden)
    return hidden


def cayley(
    affinity: Affinity,
    values: Tensor,
    order: int = 1,
    zoom: float = 1.0,
) -> list[Tensor]:
    """The rational Cayley terms ``C(L)^j g``, ``C(L) = (hL - iI)(hL + iI)^-1``.

    Levie et al. 2019. The filter c_0 g + 2 Re Σ_j c_j C(L)^j g is any real
    combination of the real and imaginary parts returned here. An affinity of low rank
    is inverted exactly (Woodbury); for any other the spectral radius of A must not
    exceed 1 (softmax affinities), and ``(hL + iI)^-1 = Σ_t h^t A^t / (h + i)^(t+1)``
    is summed until the remainder is below rounding, a number of terms that depends on
    h and the dtype alone: 46 in float32 and 104 in float64 at h = 1.

    Args:
        affinity (Affinity): A (B, N, N).
        values (Tensor): g (B, N, D).
        order (int): Highest power j. Defaults to 1.
        zoom (float): h > 0. Defaults to 1.

    Returns:
        list[Tensor]: g, Re C g, Im C g, ..., Re C^order g, Im C^order g.

    Raises:
        ValueError: If order < 1 or zoom <= 0.
    """
    if order < 1 or zoom <= 0:
        raise ValueError(
            f'cayley needs order >= 1 and zoom > 0, but got {order} and {zoom}'
        )
    dtype, depth = values.dtype, values.shape[2]
    with full_precision(values.device):
        values = at_least_float32(values)
        if _matrix_is_solved(affinity):  # one matrix for every power
            affinity = MatrixAffinity(affinity._dense())
        # One complex signal is two real ones side by side: A is real.
        signal = concat_channels(values, torch.zeros_like(values))
        terms = [values]
        for _ in range(order):
            # (hL - i)(hL + i)^-1 = 1 - 2i (hL + i)^-1
            signal = signal + _multiply(_resolvent(affinity, signal, zoom), -2j)
            terms += [signal[..., :depth], signal[..., depth:]]
    return [term.to(dtype) for term in terms]


def _matrix_is_solved(affinity: Affinity) -> bool:
    """Whether (hL + iI)^-1 is of the matrix, N x N, itself."""
    if formulation() != 'auto':
        return formulation() == 'dense'
    low_rank = isinstance(affinity, LowRankAffinity)
    limit = affinity.rank if low_rank else FEW_POSITIONS_TO_SOLVE
    return affinity.shape[1] <= limit


def _resolvent(affinity: Affinity, signal: Tensor, zoom: float) -> Tensor:
    """``(hL + iI)^-1`` of a complex signal, ``hL + iI = alpha I - h A``."""
    alpha = complex(zoom, 1)
    if isinstance(affinity, MatrixAffinity):
        return _solve(affinity._dense(), signal, alpha, zoom)
    if isinstance(affinity, LowRankAffinity):
        left = affinity.left
        inner = _solve(affinity.context(left), affinity.context(signal), alpha, zoom)
        outer = signal + zoom * channel_first_matmul(left, inner)
        return _multiply(outer, 1 / alpha)
    ratio = zoom / math.hypot(zoom, 1)
    num_terms = math.ceil(math.log(torch.finfo(signal.dtype).eps) / math.log(ratio))
    term = total = _multiply(signal, 1 / alpha)
    for _ in range(num_terms):
        term = _multiply(affinity.apply(term), zoom / alpha)
        total = total + term
    return total


def _solve(operator: Tensor, signal: Tensor, alpha: complex, zoom: float) -> Tensor:
    eye = torch.eye(operator.shape[-1], dtype=signal.dtype, device=signal.device)
    solved = solve(
        alpha * eye - zoom * operator, torch.complex(*signal.chunk(2, dim=-1))
    )
    return torch.cat([solved.real, solved.imag], dim=-1)


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """``matrix^-1 right`` of (B, n, n) and (B, n, D).

    On a CPU several large matrices are solved one by one: a batch of them gives wrong
    results, errors or never ends with more than one thread
    (https://github.com/pytorch/pytorch/issues/142815).
    """
    batch, size, _ = matrix.shape
    if matrix.device.type != 'cpu' or size <= LARGEST_IN_A_BATCH or is_open(batch):
        return torch.linalg.solve(matrix, right)
    return torch.stack([torch.linalg.solve(*pair) for pair in zip(matrix, right)])


def _multiply(signal: Tensor, factor: complex) -> Tensor:
    real, imaginary = signal.chunk(2, dim=-1)
    return concat_channels(
        real * factor.real - imaginary * factor.imag,
        real * factor.imag + imaginary * factor.real,
    )
