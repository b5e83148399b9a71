# Copyright (c) The nl_plugins authors. All rights reserved.
"""Affinities of the products of query and key: softmax and ReLU."""

from __future__ import annotations

import torch
from torch import Tensor

from .affinity import PairAffinity
from .lazy import Map
from .precision import softmax
from .products import product, transposed
from .strategies.fused import FUSED
from .strategies.matrix import Matrix
from .strategies.tiles import RELU_TILES, ROW_TILES


class SoftmaxAffinity(PairAffinity):
    """``A_ij = softmax_j(scale q_i·k_j)`` (Wang et al. 2018, eq. 3).

    Args:
        query (Map): (B, N, C).
        key (Map): (B, M, C).
        scale (float): Factor of the logits. Defaults to 1.
    """

    strategies = (ROW_TILES, FUSED, Matrix(4, 10, calls=(4, 10)))

    def __init__(self, query: Map, key: Map, scale: float = 1.0) -> None:
        super().__init__(query, key)
        self.scale = scale

    def _dense(self) -> Tensor:
        query, key = self.pair()
        return softmax(product(query, transposed(key), alpha=self.scale, rows=True))

    def _rows(self, index: Tensor) -> Tensor:
        query, key = self.pair()
        return softmax(product(query[:, index], transposed(key), alpha=self.scale))


class ReLUAffinity(PairAffinity):
    """``A_ij = scale relu(q_i·k_j)`` (the relu form of RNL).

    Args:
        query (Map): (B, N, C).
        key (Map): (B, M, C).
        scale (float, optional): Factor; None means 1 / M. Defaults to None.
    """

    strategies = (RELU_TILES, Matrix(3, 9))

    def __init__(self, query: Map, key: Map, scale: float | None = None) -> None:
        super().__init__(query, key)
        self.scale = 1 / key.shape[1] if scale is None else scale

    def _dense(self) -> Tensor:
        query, key = self.pair()
        return torch.relu(product(query, transposed(key), rows=True)) * self.scale

    def _rows(self, index: Tensor) -> Tensor:
        query, key = self.pair()
        return torch.relu(product(query[:, index], transposed(key))) * self.scale

    def transpose(self) -> ReLUAffinity:
        return ReLUAffinity(self.key, self.query, self.scale)
