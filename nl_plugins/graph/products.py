# Copyright (c) The nl_plugins authors. All rights reserved.
"""Products of maps (B, positions, channels): layout, precision, fewest copies."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import HALF


def transposed(x: Tensor) -> Tensor:
    """Exchange the last two dimensions."""
    return x.transpose(-2, -1)  # not mT, which TorchScript's ONNX exporter lacks


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
    come here on a GPU, accumulate in float32 and give float32. With gradients off a
    ``plus`` of the result's shape is overwritten by the result.
    """
    if isinstance(alpha, Tensor):  # of sizes, while TorchScript traces
        return product(a * alpha, b, plus, rows=rows)
    if a.dtype in HALF:
        if rows:
            out = HalfProduct.apply(a, b)
        else:
            out = transposed(HalfProduct.apply(transposed(b), transposed(a)))
        out = out if alpha == 1 else out * alpha
        return out if plus is None else out + plus
    if rows:
        return _product(a, b, plus, alpha)
    plus = None if plus is None else transposed(plus)
    return transposed(_product(transposed(b), transposed(a), plus, alpha))


def _product(a: Tensor, b: Tensor, plus: Tensor | None, alpha: float) -> Tensor:
    if plus is None:
        if alpha == 1:
            return torch.bmm(a, b)
        return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=alpha)
    if (
        not torch.is_grad_enabled()
        and plus.shape == (*a.shape[:2], b.shape[2])
        and 0 not in plus.stride()  # an expanded one is one row for all
    ):
        return plus.baddbmm_(a, b, alpha=alpha)
    return torch.baddbmm(plus, a, b, alpha=alpha)


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


def narrowed(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
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
    weight: Tensor,
    plus: Tensor | None = None,
    rows: bool | None = None,
) -> Tensor:
    """``values @ weightᵀ + plus``: a 1x1 convolution of (B, N, D) by (D_out, D).

    ``plus`` is anything that broadcasts to the result, a bias (D_out,) for one. The
    result lies in memory as ``rows`` says, see :func:`product`; None means as
    ``values`` do.
    """
    weight = weight.to(values.dtype)
    # A matrix a sample, all at one address: torch.matmul would merge batch and
    # positions, which copies channel-first memory.
    weights = weight.unsqueeze(0).expand(values.shape[0], -1, -1)
    if plus is not None and plus.ndim == 1:
        plus = plus.view(1, 1, -1)
    rows = is_row_major(values) if rows is None else rows
    return product(values, transposed(weights), plus, rows=rows)


def concat_channels(*tensors: Tensor) -> Tensor:
    """Concatenate (B, positions, channels) along channels, channel-first in memory."""
    if len(tensors) == 1:
        return tensors[0]
    return transposed(torch.cat([transposed(x) for x in tensors], dim=-2))
