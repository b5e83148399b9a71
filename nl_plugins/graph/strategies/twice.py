# Copyright (c) The nl_plugins authors. All rights reserved.
"""Gradients that may be differentiated again: those of the definition.

A backward pass in tiles is differentiable once, and torch's ``once_differentiable``
loses what goes through it without a word where ``torch.autograd.grad`` asks for the
derivative and another path, as the residual sum is, leads to the same tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def wants_graph() -> bool:
    """Whether the gradients of this backward pass may be differentiated again.

    A compiled one cannot be.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def gradients(
    definition: Callable[..., Tensor], inputs: tuple[Tensor, ...], grad: Tensor
) -> tuple[Tensor, ...]:
    """Of ``definition(*inputs)``, which builds the matrix, by torch's own operators."""
    out, backward = torch.func.vjp(definition, *inputs)
    return backward(grad.to(out.dtype))
