# Copyright (c) The nl_plugins authors. All rights reserved.
"""In which precision the operators compute, and the checks that read the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

# Smaller shares of a row are 0: of weights below the smallest normal number products
# on a CPU are 10 to 30 times slower.
LEAST = 1e-30
HALF = (torch.float16, torch.bfloat16)
_debug = False


@contextmanager
def debug() -> Iterator[None]:
    """Also check what costs a pass over the data: non-negative features."""
    global _debug
    previous, _debug = _debug, True
    try:
        yield
    finally:
        _debug = previous


def debugging() -> bool:
    """Whether checks that read the data are on."""
    return _debug


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half-precision tensors in float32: sums over positions overflow float16."""
    return tensor.float() if tensor.dtype in HALF else tensor


def operand(tensor: Tensor) -> Tensor:
    """A factor of a product: half precision stays on a GPU, whose tensor cores
    multiply it and accumulate in float32; elsewhere it becomes float32."""
    return tensor if tensor.device.type == 'cuda' else at_least_float32(tensor)


def softmax(logits: Tensor, dim: int = -1) -> Tensor:
    """The softmax over a dimension."""
    if logits.device.type != 'cpu' or is_traced():
        return logits.softmax(dim)
    if torch.compiler.is_compiling():  # which takes no function with a jvp, and fuses
        return F.threshold(logits.softmax(dim), LEAST, 0)
    return _Softmax.apply(logits, dim)


class _Softmax(torch.autograd.Function):
    """The softmax without the smallest weights, which no second tensor keeps."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, dim: int) -> Tensor:
        return F.threshold_(logits.softmax(dim), LEAST, 0)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.dim = inputs[1]
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        return _Softmax.jvp(ctx, grad, None), None

    @staticmethod
    def jvp(ctx, tangent: Tensor, _) -> Tensor:
        # Its own transpose. torch's operator copies one that lies transposed in memory.
        (weights,) = ctx.saved_tensors
        slope = weights * tangent
        mean = slope.sum(ctx.dim, keepdim=True)
        return slope.addcmul_(weights, mean, value=-1)


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device."""
    if device.type not in ('cpu', 'cuda'):
        return False
    try:
        return torch.is_autocast_enabled(device.type)
    except TypeError:  # torch below 2.4 has a function for each
        name = 'cpu_enabled' if device.type == 'cpu' else 'enabled'
        return getattr(torch, f'is_autocast_{name}')()


def autocast_dtype(device: torch.device) -> torch.dtype:
    """The dtype that autocast gives to products on a device."""
    try:
        return torch.get_autocast_dtype(device.type)
    except AttributeError:  # torch below 2.4
        name = 'cpu' if device.type == 'cpu' else 'gpu'
        return getattr(torch, f'get_autocast_{name}_dtype')()


def product_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast asks of products on a GPU; None where nothing is asked."""
    if device.type != 'cuda' or not autocasts(device):
        return None
    return autocast_dtype(device)


def full_precision(device: torch.device) -> AbstractContextManager:
    """A context in which autocast leaves precision alone."""
    if not autocasts(device):
        return nullcontext()  # an autocast context costs as much as a small product
    return torch.autocast(device.type, enabled=False)


def nominal(size: int) -> int:
    """A size to decide by. A rule that asked for an open one would bind the captured
    graph to its answer, so it counts as 8."""
    return 8 if isinstance(size, torch.SymInt) else size


def is_traced() -> bool:
    """Whether TorchScript or its ONNX exporter records operators.

    It keeps neither Python's decisions nor autograd functions, so that only plain
    operators that do not depend on sizes may run.
    """
    return torch.jit.is_tracing()


def may_learn() -> bool:
    """Whether a backward pass may follow, so that nothing is written in place.

    TorchScript checks a trace by another without gradients: the two must not differ.
    """
    return torch.is_grad_enabled() or is_traced() or is_forward_mode()


def is_forward_mode() -> bool:
    """Whether derivatives are taken forward (``torch.func.jvp``), for which our
    autograd functions and fused attention have no rule."""
    return forward_ad._current_level >= 0


def is_exported() -> bool:
    """Whether ``torch.export`` captures a graph for another runtime."""
    return getattr(torch.compiler, 'is_exporting', lambda: False)()
