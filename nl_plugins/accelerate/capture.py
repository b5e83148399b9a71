# Copyright (c) The nl_plugins authors. All rights reserved.
"""When the original has to compute, and how maps become tokens and maps again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import Proxy


def is_captured(*tensors: Tensor) -> bool:
    """Whether ``torch.jit`` or ``torch.fx`` records the operations on the tensors.

    What they record must run at other sizes, and in runtimes that lack our operators.
    ``torch.compile`` and ``torch.export`` follow the accelerated forward.
    """
    return torch.jit.is_tracing() or any(isinstance(x, Proxy) for x in tensors)


def keeps_method(module: nn.Module, owner: type, name: str) -> bool:
    """Whether a method of the module is the one that its class ``owner`` defines."""
    method = getattr(module, name)
    return getattr(method, '__func__', None) is getattr(owner, name)


def to_map(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, N, C) -> (B, C, *size)."""
    return x.transpose(1, 2).reshape(x.shape[0], -1, *size)
