# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmcv's ``GeneralizedAttention`` (Zhu et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph import SoftmaxAffinity
from .capture import is_captured


def generalized_attention(cls: type) -> Callable:
    """The forward of ``GeneralizedAttention``: ``x + gamma proj(A v)``, A by head.

    The logits of a query at (y, x) and a key at (j, i) are a content term
    ``(q + u)·k`` and two position terms, ``a[x, i] + b[y, j]``. As products with the
    unit vectors of i and j they join the content, so that the whole is one softmax
    affinity of width C + W_k + H_k. The original computes with the key's content alone,
    which needs no matrix; within a local range, which masks pairs; and for the query's
    position term without its bias, where it takes rows for columns.
    """
    original = cls.forward

    def forward(self: nn.Module, x_input: Tensor) -> Tensor:
        content, geometry, bias, geometric_bias = self.attention_type
        matrix = (content and not geometry) or geometric_bias
        if is_captured(x_input) or self.spatial_range >= 0 or not matrix:
            return original(self, x_input)
        x_q, x_kv = (
            x_input if downsample is None else downsample(x_input)
            for downsample in (self.q_downsample, self.kv_downsample)
        )
        batch, (height, width) = x_input.shape[0], x_q.shape[2:]
        key_height, key_width = x_kv.shape[2:]
        query = _heads(self, self.query_conv(x_q)) if content or geometry else 0.0
        queries, keys = [], []
        if content or bias:
            wanted = query if content else 0.0
            if bias:
                wanted = wanted + self.appr_bias.view(self.num_heads, -1, 1, 1)
            queries.append(wanted)
            keys.append(_heads(self, self.key_conv(x_kv)))
        if geometry or geometric_bias:
            wanted = query if geometry else 0.0
            if geometric_bias:
                wanted = wanted + self.geom_bias.view(self.num_heads, -1, 1, 1)
            across, along = _position_terms(self, wanted, x_input, x_q, x_kv)
            queries += [across, along]
            columns = torch.eye(key_width, device=x_q.device, dtype=across.dtype)
            rows = torch.eye(key_height, device=x_q.device, dtype=across.dtype)
            keys += [columns[:, None], rows[:, :, None]]
        affinity = SoftmaxAffinity(
            _stack(queries, batch, self.num_heads, height, width),
            _stack(keys, batch, self.num_heads, key_height, key_width),
        )
        values = self.value_conv(x_kv).reshape(batch * self.num_heads, self.v_dim, -1)
        out = affinity.apply(values.transpose(1, 2)).transpose(1, 2)
        out = self.proj_conv(out.reshape(batch, -1, height, width))
        if self.q_downsample is not None:
            out = F.interpolate(
                out, size=x_input.shape[2:], mode='bilinear', align_corners=False
            )
        return self.gamma * out + x_input

    return forward


def _heads(self: nn.Module, x: Tensor) -> Tensor:
    """(B, heads E, H, W) -> (B, heads, E, H, W)."""
    return x.unflatten(1, (self.num_heads, self.qk_embed_dim))


def _position_terms(
    self: nn.Module, query: Tensor, x_input: Tensor, x_q: Tensor, x_kv: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits by the column and by the row of a key, (B, heads, W_k or H_k, H, W)."""
    grid, key_grid = tuple(x_q.shape[2:]), tuple(x_kv.shape[2:])
    embeddings = self.get_position_embedding(
        *grid,
        *key_grid,
        self.q_stride,
        self.kv_stride,
        x_input.device,
        x_input.dtype,
        self.position_embedding_dim,
    )
    layers = self.appr_geom_fc_x, self.appr_geom_fc_y
    horizontal, vertical = (
        layer(embedding).unflatten(2, (self.num_heads, -1)) / math.sqrt(2)
        for layer, embedding in zip(layers, embeddings)
    )
    # A bias alone is the same query everywhere.
    query = query.expand(x_input.shape[0], -1, -1, *grid)
    return (
        torch.einsum('nmeyx,xime->nmiyx', query, horizontal),
        torch.einsum('nmeyx,yjme->nmjyx', query, vertical),
    )


def _stack(parts: list[Tensor], batch: int, heads: int, *grid: int) -> Tensor:
    """Parts that broadcast to (B, heads, C_i, H, W) -> (B heads, H W, sum of C_i)."""
    parts = [part.expand(batch, heads, part.shape[-3], *grid) for part in parts]
    return (
        torch.cat(parts, 2).reshape(batch * heads, -1, math.prod(grid)).transpose(1, 2)
    )
