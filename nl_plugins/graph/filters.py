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

from .affinity import Affinity, MatrixAffinity
from .lazy import Map, as_tensor, wants_rows
from .plan import MATRIX, Strategy, choose
from .precision import at_least_float32, full_precision, operand
from .products import concat_channels, mix, product
from .strategies.factors import RECURSION, Factors

# A batch of larger matrices is not safe in torch.linalg.solve on a CPU.
LARGEST_IN_A_BATCH = 64


def laplacian(affinity: Affinity, values: Map) -> Tensor:
    """``L g = g - A g`` (NS, Tao et al. 2018)."""
    filtered = affinity.apply(values)
    return as_tensor(values) - filtered


def chebyshev(
    affinity: Affinity,
    values: Map,
    weights: Sequence[Tensor | None],
) -> Tensor:
    """``Σ_k T_k(A) g W_kᵀ`` with T_0 = I, T_1 = A, T_k = 2 A T_{k-1} - T_{k-2}.

    Args:
        affinity (Affinity): A (B, N, N).
        values (Map): g (B, N, D).
        weights (Sequence[Tensor | None]): W_0 .. W_K, each (D_out, D); None leaves
            the term out.

    Returns:
        Tensor: (B, N, D_out).

    Raises:
        ValueError: If every weight is None.
    """
    if all(weight is None for weight in weights):
        raise ValueError('chebyshev needs at least one weight that is not None')
    order = len(weights) - 1
    if order > 1 and affinity.shape[1] != affinity.shape[2]:
        raise ValueError(
            'a filter of order 2 and more needs an affinity (B, N, N), but got '
            f'{affinity!r}'
        )
    if order > 1:
        values = _wide(as_tensor(values))
        affinity, strategy = _reused(affinity, values, order, 'polynomial', weights[-1])
        if strategy is RECURSION:
            return _recursive_chebyshev(affinity, values, weights)
    *weights, last = weights
    if order > 1 and last is not None:
        # T_K = 2 A T_{K-1} - T_{K-2}: the second part joins the term of order K - 2.
        other = weights[-2]
        weights[-2] = -last if other is None else other - last
        last = 2 * last
    out = None
    previous, current = None, values
    for k, weight in enumerate(weights):
        if k == 1:
            previous, current = as_tensor(current), affinity.apply(current)
        elif k > 1:
            previous, current = current, 2 * affinity.apply(current) - previous
        if weight is not None:
            out = _term(current, weight, out)
    if last is None:
        return out
    if not weights:
        return _term(values, last, None)
    return affinity.apply(current, last, out)


def _term(values: Map, weight: Tensor, plus: Tensor | None) -> Tensor:
    with full_precision(values.device):
        return mix(operand(as_tensor(values)), weight, plus)


def _wide(values: Tensor) -> Tensor:
    """Values that may be multiplied many times: float16 has not the range."""
    return values.float() if values.dtype == torch.float16 else operand(values)


def reused(affinity: Affinity, values: Map, times: int) -> Affinity:
    """To be applied ``times`` times to such values, one result after the other: where
    the matrix pays, the matrix."""
    return _reused(affinity, values, times, 'polynomial', None)[0]


def _reused(
    affinity: Affinity, values: Map, times: int, use: str, weight: Tensor | None
) -> tuple[Affinity, Strategy | None]:
    if isinstance(affinity, MatrixAffinity) or times < 2:
        return affinity, None
    strategy = choose(affinity, values, weight, times, use)
    if strategy.name == MATRIX:
        with full_precision(values.device):
            return MatrixAffinity(affinity._dense()), strategy
    return affinity, strategy


def _recursive_chebyshev(
    affinity: Affinity, values: Tensor, weights: Sequence[Tensor | None]
) -> Tensor:
    """The filter for A = L Rᵀ: two passes over the positions whatever the order.

    Every T_k(A) g is ``α g + L q`` with q (B, r, D), and A maps it to
    ``L (α Rᵀ g + Rᵀ L q)``: the recursion runs on α and q.
    """
    with full_precision(values.device):
        rows, left = wants_rows(values), affinity.left
        context, square = affinity.context(values), affinity.context(left)
        terms = [(1, torch.zeros_like(context)), (0, context)]
        while len(terms) < len(weights):
            (before, q_before), (alpha, q) = terms[-2:]
            q = 2 * (square @ q + alpha * context) - q_before
            terms.append((-before, q))
        direct, through = None, None
        for k, ((alpha, q), weight) in enumerate(zip(terms, weights)):
            if weight is None:
                continue
            weight = weight.to(q.dtype)
            if alpha:
                direct = alpha * weight if direct is None else direct + alpha * weight
            if k:
                through = mix(q, weight, through)
        out = None if direct is None else mix(values, direct)
        return product(left, through, out, rows=rows)


def arma(
    affinity: Affinity,
    values: Map,
    recurrent: Callable[[Tensor], Tensor] | Tensor,
    skip: Callable[[Tensor], Tensor] | Tensor,
    num_iterations: int,
    activation: Callable[[Tensor], Tensor] | None = torch.relu,
) -> Tensor:
    """``H_{t+1} = σ(A H_t V_aᵀ + g V_bᵀ)``, H_0 = g (Bianchi et al. 2021).

    Args:
        affinity (Affinity): A (B, N, N).
        values (Map): g (B, N, D).
        recurrent (Tensor | Callable): V_a (D, D), or a layer that maps (B, N, D).
        skip (Tensor | Callable): V_b (D, D), or a layer likewise.
        num_iterations (int): T.
        activation (Callable, optional): σ; None for the linear filter.

    Returns:
        Tensor: H_T (B, N, D).
    """
    hidden = values = as_tensor(values)
    affinity = reused(affinity, values, num_iterations)
    skipped = skip(values) if callable(skip) else _term(values, skip, None)
    for _ in range(num_iterations):
        if callable(recurrent):
            hidden = recurrent(affinity.apply(hidden)) + skipped
        else:
            hidden = affinity.apply(hidden, recurrent) + skipped
        if activation is not None:
            hidden = activation(hidden)
        hidden = hidden.to(values.dtype)
    return hidden


def cayley(
    affinity: Affinity,
    values: Map,
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
        values (Map): g (B, N, D).
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
    values = as_tensor(values)
    dtype, depth = values.dtype, values.shape[2]
    with full_precision(values.device):
        values = at_least_float32(values)
        # One complex signal is two real ones side by side: A is real.
        signal = concat_channels(values, torch.zeros_like(values))
        ratio = zoom / math.hypot(zoom, 1)
        num_terms = math.ceil(math.log(torch.finfo(values.dtype).eps) / math.log(ratio))
        affinity, strategy = _reused(affinity, signal, num_terms, 'solve', None)
        terms = [values]
        for _ in range(order):
            # (hL - i)(hL + i)^-1 = 1 - 2i (hL + i)^-1
            if isinstance(affinity, MatrixAffinity):
                inverse = _solve(affinity.matrix, signal, zoom)
            elif isinstance(strategy, Factors):
                inverse = _woodbury(affinity, signal, zoom)
            else:
                inverse = _series(affinity, signal, zoom, num_terms)
            signal = signal + _multiply(inverse, -2j)
            terms += [signal[..., :depth], signal[..., depth:]]
    return [term.to(dtype) for term in terms]


# The three ways to (hL + iI)^-1 of a complex signal, hL + iI = alpha I - h A.
def _solve(matrix: Tensor, signal: Tensor, zoom: float) -> Tensor:
    eye = torch.eye(matrix.shape[-1], dtype=signal.dtype, device=signal.device)
    # Not a complex factor: the ONNX exporters know none of Python's.
    operator = torch.complex(zoom * (eye - matrix.to(signal.dtype)), eye)
    solved = solve(operator, torch.complex(*signal.chunk(2, dim=-1)))
    return torch.cat([solved.real, solved.imag], dim=-1)


def _woodbury(affinity: Affinity, signal: Tensor, zoom: float) -> Tensor:
    left = at_least_float32(affinity.left)
    # (alpha I - h L Rᵀ)^-1 = (I + h L (alpha I - h Rᵀ L)^-1 Rᵀ) / alpha
    small, context = affinity.context(left), affinity.context(signal)
    inner = _solve(small, context, zoom)
    outer = signal + zoom * product(left, inner, rows=wants_rows(signal))
    return _multiply(outer, 1 / complex(zoom, 1))


def _series(affinity: Affinity, signal: Tensor, zoom: float, num_terms: int) -> Tensor:
    alpha = complex(zoom, 1)
    term = total = _multiply(signal, 1 / alpha)
    for _ in range(num_terms):
        term = _multiply(affinity.apply(term), zoom / alpha)
        total = total + term
    return total


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """``matrix^-1 right`` of (B, n, n) and (B, n, D), without a check that waits for
    the device: hL + iI is never singular.

    On a CPU several large matrices are solved one by one: a batch of them gives wrong
    results, errors or never ends with more than one thread
    (https://github.com/pytorch/pytorch/issues/142815).
    """
    batch, size, _ = matrix.shape
    if (
        matrix.device.type != 'cpu'
        or size <= LARGEST_IN_A_BATCH
        or isinstance(batch, torch.SymInt)
    ):
        return torch.linalg.solve_ex(matrix, right)[0]
    pairs = zip(matrix, right)
    return torch.stack([torch.linalg.solve_ex(*pair)[0] for pair in pairs])


def _multiply(signal: Tensor, factor: complex) -> Tensor:
    real, imaginary = signal.chunk(2, dim=-1)
    return concat_channels(
        real * factor.real - imaginary * factor.imag,
        real * factor.imag + imaginary * factor.real,
    )
