# Copyright (c) The nl_plugins authors. All rights reserved.
"""The concatenation affinity: relu(a_i + b_j) / M."""

from __future__ import annotations

import torch
from torch import Tensor

from .affinity import Affinity
from .precision import at_least_float32
from .strategies.matrix import Matrix
from .strategies.sorted import SORTED


class ConcatAffinity(Affinity):
    """``A_ij = relu(a_i + b_j) / M`` (Wang et al. 2018, eq. 5).

    Cost (N + M)(D + log M) by sorting b once.

    Args:
        a (Tensor): (B, N), one number a query position.
        b (Tensor): (B, M), one number a key position.
        scale (float, optional): Factor; None means 1 / M. Defaults to None.
    """

    strategies = (SORTED, Matrix(3, 8, pairwise=False))

    def __init__(self, a: Tensor, b: Tensor, scale: float | None = None) -> None:
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[0]:
            raise ValueError(
                'ConcatAffinity needs a (B, N) and b (B, M) of one batch size, but '
                f'got {tuple(a.shape)} and {tuple(b.shape)}'
            )
        if a.device != b.device:
            raise ValueError(
                f'ConcatAffinity needs a and b on one device, but got {a.device} and '
                f'{b.device}'
            )
        self._describe(a, a.shape[1], b.shape[1])
        self.a, self.b = a, b
        self.scale = 1 / b.shape[1] if scale is None else scale

    def _dense(self) -> Tensor:
        a, b = at_least_float32(self.a), at_least_float32(self.b)
        return torch.relu(a.unsqueeze(2) + b.unsqueeze(1)) * self.scale

    def _rows(self, index: Tensor) -> Tensor:
        return ConcatAffinity(self.a[:, index], self.b, self.scale)._dense()

    def transpose(self) -> ConcatAffinity:
        return ConcatAffinity(self.b, self.a, self.scale)
