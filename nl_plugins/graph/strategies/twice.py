# Copyright (c) The nl_plugins authors. All rights reserved.
"""Gradients in plain operators that build the matrix, for second derivatives.

A backward pass in tiles is differentiable once, and torch's ``once_differentiable``
loses what goes through it without a word where ``torch.autograd.grad`` asks for the
derivative and another path, as the residual sum is, leads to the same tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import at_least_float32
from ..products import transposed


def wants_graph() -> bool:
    """Whether the gradients of this backward pass may be differentiated again.

    A compiled one cannot be.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def softmax_gradients(
    query: Tensor, key: Tensor, values: Tensor, scale: float, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``softmax(scale q kᵀ) v`` with respect to q, k and v."""
    low = values.dtype
    query, key, values, grad = map(at_least_float32, (query, key, values, grad))
    weights = (scale * (query @ transposed(key))).softmax(-1)
    slope = grad @ transposed(values)
    slope = scale * weights * (slope - (weights * slope).sum(-1, keepdim=True))
    found = slope @ key, transposed(slope) @ query, transposed(weights) @ grad
    return tuple(each.to(low) for each in found)


def relu_gradients(
    query: Tensor, key: Tensor, values: Tensor, scale: float, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``scale relu(q kᵀ) v`` with respect to q, k and v."""
    low = values.dtype
    query, key, values, grad = map(at_least_float32, (query, key, values, grad))
    logits = query @ transposed(key)
    slope = (logits > 0) * (grad @ transposed(values)) * scale
    weights = scale * torch.relu(logits)
    found = slope @ key, transposed(slope) @ query, transposed(weights) @ grad
    return tuple(each.to(low) for each in found)


def concat_gradients(
    a: Tensor, b: Tensor, values: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``Σ_j relu(a_i + b_j) v_j`` with respect to a, b (B, N or M) and v."""
    logits = a.unsqueeze(2) + b.unsqueeze(1)
    slope = (logits > 0) * (grad @ transposed(values))
    return slope.sum(2), slope.sum(1), transposed(torch.relu(logits)) @ grad
