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

from .affinity import Affinity, channel_first_matmul
from .dispatch import at_least_float32


def laplacian(affinity: Affinity, values: Tensor) -> Tensor:
    """``L g = g - A g`` (NS, Tao et al. 2018)."""
    return values - affinity @ values


def chebyshev(
    affinity: Affinity,
    values: Tensor,
    weights: Sequence[Tensor | None],
    stable: bool = False,
) -> Tensor:
    """``Σ_k T_k(A) g W_kᵀ`` with T_0 = I, T_1 = A, T_k = 2 A T_{k-1} - T_{k-2}.

    Args:
        affinity (Affinity): A (B, N, N).
        values (Tensor): g (B, N, D).
        weights (Sequence[Tensor | None]): W_0 .. W_K, each (D_out, D); None leaves
            the term out.
        stable (bool): Take A² = A, as gSNL (Zhu et al. 2019) does, so that
            T_k = 2 T_{k-1} - T_{k-2} from k = 2 on. Defaults to False.

    Returns:
        Tensor: (B, N, D_out).

    Raises:
        ValueError: If every weight is None.
    """
    if all(weight is None for weight in weights):
        raise ValueError('chebyshev needs at least one weight that is not None')
    out = None
    previous, current = None, values
    for order, weight in enumerate(weights):
        last = order == len(weights) - 1
        if order == 1:
            if last:
                return _add(out, affinity.apply(values, weight))
            previous, current = current, affinity @ current
        elif order > 1:
            advanced = current if stable else affinity @ current
            previous, current = current, 2 * advanced - previous
        if weight is not None:
            term = channel_first_matmul(current, weight.to(current.dtype).mT)
            out = _add(out, term)
    return out


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
    skipped = channel_first_matmul(values, skip.to(values.dtype).mT)
    hidden = values
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
    combination of the real and imaginary parts returned here. The spectral radius of
    A must not exceed 1 (softmax and symmetric affinities); the inverse is a geometric
    series ``(hL + iI)^-1 = Σ_t h^t A^t / (h + i)^(t+1)`` summed until its remainder
    is below rounding, a number of terms that depends on h and the dtype alone.

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
    dtype = at_least_float32(values).dtype
    ratio = zoom / math.hypot(zoom, 1)
    num_terms = math.ceil(math.log(torch.finfo(dtype).eps) / math.log(ratio))
    depth = values.shape[2]
    # One complex signal is two real ones side by side: A is real.
    signal = torch.cat([values, torch.zeros_like(values)], dim=-1)
    terms = [values]
    for _ in range(order):
        # (hL - i)(hL + i)^-1 = 1 - 2i (hL + i)^-1
        term = _multiply(signal, 1 / complex(zoom, 1))
        solved = term
        for _ in range(num_terms):
            term = _multiply(affinity @ term, zoom / complex(zoom, 1))
            solved = solved + term
        signal = signal + _multiply(solved, -2j)
        terms += [signal[..., :depth], signal[..., depth:]]
    return terms


def _multiply(signal: Tensor, factor: complex) -> Tensor:
    real, imaginary = signal.chunk(2, dim=-1)
    return torch.cat(
        [
            real * factor.real - imaginary * factor.imag,
            real * factor.imag + imaginary * factor.real,
        ],
        dim=-1,
    )


def _add(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term
