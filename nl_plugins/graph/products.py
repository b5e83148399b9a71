# Copyright (c) The nl_plugins authors. All rights reserved.
"""Products of maps (B, positions, channels): layout, precision, fewest copies."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import HALF, may_learn


def transposed(x: Tensor) -> Tensor:
    """Exchange the last two dimensions."""
    return x.transpose(-2, -1)  # not mT, which TorchScript's ONNX exporter lacks


def tokens(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, N, C), a view."""
    return transposed(x.flatten(2))


def product(
    a: Tensor,
    b: Tensor,
    plus: Tensor | None = None,
    alpha: float = 1.0,
    rows: bool = False,
) -> Tensor:
    """``alpha a @ b + plus`` of (B, n, k) and (B, k, m).

    Feature maps arrive channel-first in memory, (B, channels, positions), and a result
    laid out like them joins the residual sum without a transposing copy; with ``rows``
    the channels of a position are neighbours. Half-precision factors, which only
    come here on a GPU, accumulate in float32 and give float32; a float32 factor beside
    one is narrowed. ``plus`` broadcasts to the result, a bias (m,) for one; with
    gradients off one of the result's shape is overwritten by the result.
    """
    if isinstance(alpha, Tensor):  # of sizes, while TorchScript traces
        return product(a * alpha, b, plus, rows=rows)
    if a.dtype != b.dtype:
        a, b, size = _narrowed_pair(a, b)
        if size is not None:
            out = product(a, b, alpha=alpha, rows=rows)
            return out * size if plus is None else torch.addcmul(plus, out, size)
    if a.dtype in HALF:
        if rows:
            out = HalfProduct.apply(a, b)
        else:
            out = transposed(HalfProduct.apply(transposed(b), transposed(a)))
        out = out if alpha == 1 else out * alpha
        return out if plus is None else out + plus
    return plain_product(a, b, plus, alpha, rows)


def plain_product(
    a: Tensor,
    b: Tensor,
    plus: Tensor | None = None,
    alpha: float = 1.0,
    rows: bool = False,
) -> Tensor:
    """:func:`product` of two factors of one dtype, in that dtype."""
    is_bias = plus is not None and plus.ndim == 1
    if is_bias:
        plus = plus.view(1, 1, -1)
    if not rows:
        a, b = transposed(b), transposed(a)
        plus = None if plus is None else transposed(plus)
    if plus is None and alpha == 1:
        out = torch.bmm(a, b)
    elif plus is None:
        out = torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=alpha)
    elif (
        not may_learn()
        and not is_bias  # which is a parameter
        and plus.shape == (*a.shape[:2], b.shape[2])
        and 0 not in plus.stride()  # an expanded one is one row for all
    ):
        out = plus.baddbmm_(a, b, alpha=alpha)
    else:
        out = torch.baddbmm(plus, a, b, alpha=alpha)
    return out if rows else transposed(out)


class HalfProduct(torch.autograd.Function):
    """``a @ b`` of half-precision factors in float32, without a cast of either."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return float32_product(a, b)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        grad = grad.to(a.dtype)
        return torch.bmm(grad, transposed(b)), torch.bmm(transposed(a), grad)


def float32_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``, in float32 if the factors are of half precision; no gradient."""
    if a.dtype not in HALF:
        return torch.bmm(a, b)
    try:
        return torch.bmm(a, b, out_dtype=torch.float32)
    except (TypeError, RuntimeError):  # torch below 2.8, or a device without it
        return torch.bmm(a.float(), b.float())


def _narrowed_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both factors in one dtype, and what the product is to be multiplied by."""
    if b.dtype in HALF:
        a, size = _narrowed(a, b.dtype)
    else:
        b, size = _narrowed(b, a.dtype)
    return a, b, size


def _narrowed(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """``tensor / s`` in another dtype, and s (B, 1, 1) if it is not 1.

    float16 ends at 65504, which sums over positions exceed.
    """
    if dtype != torch.float16 or tensor.dtype == dtype:
        return tensor.to(dtype), None
    size = tensor.detach().abs().amax((1, 2), keepdim=True).clamp_min(1)
    return (tensor / size).to(dtype), size


def is_row_major(x: Tensor) -> bool:
    """Whether the channels of a position of (B, N, C) are neighbours in memory."""
    return x.stride(2) == 1 and (x.stride(1) != 1 or x.shape[1] == 1)


def mix(
    values: Tensor,
    weight: Tensor | None,
    plus: Tensor | None = None,
    rows: bool | None = None,
) -> Tensor:
    """``values @ weightᵀ + plus``: a 1x1 convolution of (B, N, D) by (D_out, D).

    Without a weight, ``values + plus``. The result lies in memory as ``rows`` says,
    see :func:`product`; None means as ``values`` do.
    """
    if weight is None:
        return values if plus is None else values + plus
    weight = weight.to(values.dtype)
    # A matrix a sample, all at one address: torch.matmul would merge batch and
    # positions, which copies channel-first memory.
    weights = weight.unsqueeze(0).expand(values.shape[0], -1, -1)
    rows = is_row_major(values) if rows is None else rows
    return product(values, transposed(weights), plus, rows=rows)


def identity(size: int, like: Tensor) -> Tensor:
    """(size, size) in float32."""
    return torch.eye(size, dtype=torch.float32, device=like.device)


def concat_channels(*tensors: Tensor) -> Tensor:
    """Concatenate (B, positions, channels) along channels, channel-first in memory."""
    if len(tensors) == 1:
        return tensors[0]
    return transposed(torch.cat([transposed(x) for x in tensors], dim=-2))
