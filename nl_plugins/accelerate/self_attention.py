# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmseg's ``SelfAttentionBlock``: ``DAHead``, ``ANNHead``, ``OCRHead``, ``ISAHead``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..graph import SoftmaxAffinity
from ..graph.products import tokens
from .capture import is_captured, to_map


def self_attention(cls: type) -> Callable:
    """The forward of ``SelfAttentionBlock``: ``out(softmax(s q kᵀ) v)``."""
    original = cls.forward

    def forward(self: nn.Module, query_feats: Tensor, key_feats: Tensor) -> Tensor:
        if is_captured(query_feats, key_feats):
            return original(self, query_feats, key_feats)
        query = self.query_project(query_feats)
        if self.query_downsample is not None:
            query = self.query_downsample(query)
        key, value = self.key_project(key_feats), self.value_project(key_feats)
        if self.key_downsample is not None:
            key, value = self.key_downsample(key), self.key_downsample(value)
        scale = self.channels**-0.5 if self.matmul_norm else 1.0
        affinity = SoftmaxAffinity(tokens(query), tokens(key), scale)
        context = to_map(affinity.apply(tokens(value)), query_feats.shape[2:])
        if self.out_project is not None:
            context = self.out_project(context)
        return context

    return forward
