# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmcv's ``CrissCrossAttention`` (``CCHead``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import FunctionType

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from ..graph import CrissCrossAffinity
from .capture import to_map, tokens


def criss_cross(cls: type) -> Callable:
    """The forward of ``CrissCrossAttention``: ``x + gamma (A v(x))``.

    The original becomes the method ``criss_cross_of_mmcv``: ``torch.jit.script``
    compiles a forward by its source, and that of the original alone can be compiled.
    """
    original = cls.forward
    # Under its own name the compiler would take it for a second forward.
    cls.criss_cross_of_mmcv = FunctionType(
        original.__code__, original.__globals__, 'criss_cross_of_mmcv'
    )

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self.criss_cross_of_mmcv(x)
        else:  # noqa: RET505 - the compiler skips this branch only if it is one
            return _attend(self, x)

    return forward


def _attend(self: nn.Module, x: Tensor) -> Tensor:
    if isinstance(x, Proxy):
        return self.criss_cross_of_mmcv(x)
    query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
    if torch.jit.is_tracing():
        out = _all_at_once(query, key, value)
    else:
        grid = tuple(x.shape[2:])
        affinity = CrissCrossAffinity(tokens(query), tokens(key), grid)
        out = to_map(affinity.apply(tokens(value)), grid)
    return (self.gamma(out) + x).contiguous()


def _all_at_once(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Criss-cross attention of maps (B, C, H, W) in operators that ONNX has.

    The original asks for a diagonal matrix, which opset 17 cannot make.
    """
    height = query.shape[2]
    rows = torch.arange(height, device=query.device)
    itself = (rows[:, None] == rows).unsqueeze(1)  # (H, 1, H)
    column = torch.einsum('bchw,bciw->bhwi', query, key)
    column = column.masked_fill(itself, -math.inf)
    row = torch.einsum('bchw,bchj->bhwj', query, key)
    weights = torch.cat([column, row], -1).softmax(-1)
    out = torch.einsum('bciw,bhwi->bchw', value, weights[..., :height])
    return out + torch.einsum('bchj,bhwj->bchw', value, weights[..., height:])
