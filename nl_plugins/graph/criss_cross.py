# Copyright (c) The nl_plugins authors. All rights reserved.
"""The criss-cross affinity: a softmax over the row and the column of a position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .affinity import Affinity, check_pair
from .dispatch import at_least_float32


class CrissCrossAffinity(Affinity):
    """Softmax of ``q_i·k_j`` over the H + W - 1 positions j in i's row or column.

    CCNet, Huang et al. 2019.

    Args:
        query (Tensor): (B, H W, C), positions row by row.
        key (Tensor): (B, H W, C).
        grid (tuple[int, int]): (H, W).
    """

    def __init__(self, query: Tensor, key: Tensor, grid: tuple[int, int]) -> None:
        check_pair('CrissCrossAffinity', query, key)
        if len(grid) != 2 or math.prod(grid) != query.shape[1]:
            raise ValueError(
                f'grid {tuple(grid)} must be (H, W) with H * W equal to the '
                f'{query.shape[1]} positions of query {tuple(query.shape)}'
            )
        if query.shape != key.shape:
            raise ValueError(
                'CrissCrossAffinity needs query and key at the same positions, but '
                f'got {tuple(query.shape)} and {tuple(key.shape)}'
            )
        self._describe(query, query.shape[1], key.shape[1])
        self.query, self.key, self.grid = query, key, tuple(grid)

    def _rows(self, index: Tensor) -> Tensor:
        query, key = at_least_float32(self.query), at_least_float32(self.key)
        width = self.grid[1]
        keys = torch.arange(key.shape[1], device=self.device)
        crossing = (index[:, None] // width == keys // width) | (
            index[:, None] % width == keys % width
        )
        logits = query[:, index] @ key.mT
        return logits.masked_fill(~crossing, -math.inf).softmax(-1)

    def _dense(self) -> Tensor:
        return self._rows(torch.arange(self.shape[1], device=self.device))

    def _apply(self, values: Tensor) -> Tensor:
        return self._dense() @ values
