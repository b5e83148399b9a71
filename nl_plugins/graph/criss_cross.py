# Copyright (c) The nl_plugins authors. All rights reserved.
"""The criss-cross affinity: a softmax over the row and the column of a position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .affinity import PairAffinity
from .lazy import Map
from .precision import softmax
from .products import product, transposed
from .strategies.crossing import CROSSING
from .strategies.matrix import Matrix


class CrissCrossAffinity(PairAffinity):
    """Softmax of ``q_i·k_j`` over the H + W - 1 positions j in i's row or column.

    CCNet, Huang et al. 2019. Cost N (H + W)(C + D) instead of N² (C + D).

    Args:
        query (Map): (B, H W, C), positions row by row.
        key (Map): (B, H W, C).
        grid (tuple[int, int]): (H, W).
    """

    # A matrix has a mask besides the passes of a softmax.
    strategies = (CROSSING, Matrix(8, 16, calls=(12, 22)))

    def __init__(self, query: Map, key: Map, grid: tuple[int, int]) -> None:
        super().__init__(query, key)
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
        self.grid = tuple(grid)

    def _rows(self, index: Tensor) -> Tensor:
        query, key = self.pair()
        width = self.grid[1]
        keys = torch.arange(key.shape[1], device=self.device)
        crossing = (index[:, None] // width == keys // width) | (
            index[:, None] % width == keys % width
        )
        logits = product(query[:, index], transposed(key), rows=True)
        return softmax(logits.masked_fill(~crossing, -math.inf))

    def _dense(self) -> Tensor:
        return self._rows(torch.arange(self.shape[1], device=self.device))
