# Copyright (c) The nl_plugins authors. All rights reserved.
"""Pools of maps (B, C, *S) whose gradients repeat themselves on every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class _FramesPool2d(nn.Module):
    """A 2D pool of every frame of (B, C, T, H, W), in the dtype of the input.

    A 3D pool has no deterministic gradient on a GPU, and is float32 under a CPU's
    autocast.
    """

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(x.flatten(1, 2), 2)
        return pooled.reshape(*x.shape[:3], *pooled.shape[2:]).to(x.dtype)


def max_pool(ndim: int) -> nn.Module:
    """The parameter-free pool of the keys: 2 along space, 1 along time."""
    return (nn.MaxPool1d(2), nn.MaxPool2d(2), _FramesPool2d())[ndim - 1]


def pooled_grid(spatial: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes after :func:`max_pool`."""
    return (*spatial[:-2], *(size // 2 for size in spatial[-2:]))


def average_pyramid(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Averages over size x size x ... cells for each size, side by side: (B, C, M)."""
    ndim = x.ndim - 2
    pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
    if x.device.type == 'cuda' and torch.are_deterministic_algorithms_enabled():
        cells = [_averages(x, size) for size in sizes]
    else:
        cells = [pool[ndim - 1](x, size) for size in sizes]
    cells = [cell.flatten(2) for cell in cells]
    return torch.cat(cells, dim=2).to(x.dtype)  # autocast pools in float32


def _averages(x: Tensor, size: int) -> Tensor:
    """An adaptive average pool as products with a matrix of shares a dimension."""
    for axis in range(2, x.ndim):
        shares = _shares(x.shape[axis], size, x)
        x = (x.movedim(axis, -1) @ shares.T).movedim(-1, axis)
    return x


def _shares(length: int, size: int, like: Tensor) -> Tensor:
    """(size, length): cell i averages the positions ⌊i L / s⌋ to ⌈(i + 1) L / s⌉."""
    cell = torch.arange(size, device=like.device).unsqueeze(1)
    position = torch.arange(length, device=like.device)
    start, stop = cell * length // size, -(-(cell + 1) * length // size)
    inside = (position >= start) & (position < stop)
    return (inside / (stop - start)).to(like.dtype)
