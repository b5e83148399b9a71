# Copyright (c) The nl_plugins authors. All rights reserved.
"""Softmax affinities, computed by fused attention or in tiles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .affinity import Affinity, check_pair
from .dispatch import at_least_float32


class SoftmaxAffinity(Affinity):
    """``A_ij = softmax_j(scale q_i·k_j)`` (Wang et al. 2018, eq. 3).

    Args:
        query (Tensor): (B, N, C).
        key (Tensor): (B, M, C).
        scale (float): Factor of the logits. Defaults to 1.
    """

    takes_half = True

    def __init__(self, query: Tensor, key: Tensor, scale: float = 1.0) -> None:
        check_pair('SoftmaxAffinity', query, key)
        self._describe(query, query.shape[1], key.shape[1])
        self.query, self.key, self.scale = query, key, scale

    def _logits(self, query: Tensor) -> Tensor:
        return at_least_float32(query) @ at_least_float32(self.key).mT * self.scale

    def _dense(self) -> Tensor:
        return self._logits(self.query).softmax(-1)

    def _rows(self, index: Tensor) -> Tensor:
        return self._logits(self.query[:, index]).softmax(-1)

    def _apply(self, values: Tensor) -> Tensor:
        query, key = self.query.contiguous(), self.key.contiguous()
        values = values.contiguous()
        out = F.scaled_dot_product_attention(
            query.unsqueeze(1), key.unsqueeze(1), values.unsqueeze(1), scale=self.scale
        )
        return out.squeeze(1)


class ReLUAffinity(Affinity):
    """``A_ij = scale relu(q_i·k_j)`` (the relu form of RNL).

    Args:
        query (Tensor): (B, N, C).
        key (Tensor): (B, M, C).
        scale (float, optional): Factor; None means 1 / M. Defaults to None.
    """

    def __init__(self, query: Tensor, key: Tensor, scale: float | None = None) -> None:
        check_pair('ReLUAffinity', query, key)
        self._describe(query, query.shape[1], key.shape[1])
        self.query, self.key = query, key
        self.scale = 1 / key.shape[1] if scale is None else scale

    def _dense(self) -> Tensor:
        query, key = at_least_float32(self.query), at_least_float32(self.key)
        return torch.relu(query @ key.mT) * self.scale

    def _rows(self, index: Tensor) -> Tensor:
        return ReLUAffinity(self.query[:, index], self.key, self.scale)._dense()

    def _apply(self, values: Tensor) -> Tensor:
        return self._dense() @ values

    def transpose(self) -> ReLUAffinity:
        return ReLUAffinity(self.key, self.query, self.scale)
