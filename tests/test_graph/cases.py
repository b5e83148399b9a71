# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every affinity of the graph core, built from leaf tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nl_plugins import graph
from nl_plugins.graph.precision import at_least_float32


@dataclass(frozen=True)
class Case:
    """How to build an affinity: ``build(query, key, grid)``, and what it allows."""

    name: str
    build: Callable[[Tensor, Tensor, tuple[int, int]], graph.Affinity]
    square: bool = False  # query and key positions are the same
    shared: bool = False  # query and key are one tensor
    quadratic: bool = False  # time grows with N²


def _unary(query, key, grid):
    logits = at_least_float32(key[..., 0])  # torch 2.1 has no softmax of half on a CPU
    return graph.UnaryAffinity(logits.softmax(-1).to(key.dtype), query.shape[1])


CASES = [
    Case('softmax', lambda q, k, g: graph.SoftmaxAffinity(q, k, 0.7), quadratic=True),
    Case(
        'softmax_square',
        lambda q, k, g: graph.SoftmaxAffinity(k, k, 0.7),
        square=True,
        shared=True,
        quadratic=True,
    ),
    Case('relu', lambda q, k, g: graph.ReLUAffinity(q, k), quadratic=True),
    Case('dot', lambda q, k, g: graph.DotAffinity(q, k)),
    Case('concat', lambda q, k, g: graph.ConcatAffinity(q[..., 0], k[..., 0])),
    Case(
        'symmetric',
        lambda q, k, g: graph.SymmetricAffinity(q.relu(), k.relu()),
        square=True,
    ),
    Case(
        'row_normalised',
        lambda q, k, g: graph.SymmetricAffinity(q.relu(), k.relu(), symmetric=False),
        square=True,
    ),
    Case('compact_dot', lambda q, k, g: graph.CompactAffinity(q[..., :1], k[..., :1])),
    Case(
        'compact_rbf',
        lambda q, k, g: graph.CompactAffinity(
            q[..., :1], k[..., :1], (1.0, 0.5, 0.25, 0.125)
        ),
    ),
    Case(
        'criss_cross',
        lambda q, k, g: graph.CrissCrossAffinity(q, k, g),
        square=True,
    ),
    Case('unary', _unary),
    Case(
        'sum',
        lambda q, k, g: graph.SoftmaxAffinity(q, k) + _unary(q, k, g),
        quadratic=True,
    ),
]


def leaves(
    case: Case,
    *,
    batch: int = 2,
    queries: int = 12,
    keys: int = 10,
    width: int = 5,
    depth: int = 6,
    dtype: torch.dtype = torch.float64,
    scale: float = 1.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and values, channel-first in memory as a feature map is."""
    generator = torch.Generator().manual_seed(seed)

    def draw(positions: int, channels: int, factor: float) -> Tensor:
        x = torch.randn(
            batch, channels, positions, generator=generator, dtype=torch.float64
        )
        return (x * factor).to(dtype).mT.detach().requires_grad_()

    if case.square:
        keys = queries
    return (
        draw(queries, width, scale),
        draw(keys, width, scale),
        draw(keys, depth, 1.0),
    )


def grid_of(positions: int) -> tuple[int, int]:
    """The most nearly square (H, W) with H * W = positions."""
    height = max(h for h in range(1, int(positions**0.5) + 1) if positions % h == 0)
    return height, positions // height
