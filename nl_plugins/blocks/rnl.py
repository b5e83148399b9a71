# Copyright (c) The nl_plugins authors. All rights reserved.
"""Region-based Non-local Operation for Video Classification, Huang and Bors, ICPR 2020.

https://arxiv.org/abs/2007.09033
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch.nn as nn
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, ReLUAffinity, SoftmaxAffinity
from ..graph.pooling import max_pool, pooled_grid
from ..graph.products import tokens
from ..options import Cfg, Count
from .base import Init, NonLocalBlock, matrix


@MODELS.register_module()
class RNLBlock(NonLocalBlock):
    """``z = x + W_z (A θ(x))``; A compares regions, the values are single positions.

    The region ρ_i around position i is a depthwise convolution of the embedding
    θ(x), and serves as query and key: ``A_ij = softmax_j(ρ_i·ρ_j)``, unscaled, or
    ``relu(ρ_i·ρ_j) / M``. The values are θ before the convolution.

    Args:
        kernel_size (int | Sequence[int]): Odd sizes of the region, one for all
            dimensions or one for each. All ones: no region. Defaults to 3.
        activation (str): 'softmax' or 'relu'. Defaults to 'softmax'.
        use_norm (bool): Scale every ρ_i to unit length. Defaults to False.
        sub_sample (bool): Max-pool keys and values by 2 along space.
            Defaults to False.
        out_bias (bool): Whether W_z has a bias, also before a norm.
            Defaults to True.
        options: ``ndim``, ``reduction`` and others, see :class:`NonLocalBlock`;
            ``norm_cfg`` defaults to BN, ``init`` to 'pytorch'. The region
            convolution is always drawn as the released code does.

    Raises:
        ValueError: If ``kernel_size`` is even or not ``ndim`` long, or another option
            is outside its choices.
    """

    _abbr_ = 'rnl_block'
    variants = {
        'softmax': {},
        'relu': dict(activation='relu'),
        'norm': dict(use_norm=True),
        'pooled': dict(sub_sample=True, kernel_size=5),
        'no_region': dict(kernel_size=1, norm_cfg=None),
    }

    def __init__(
        self,
        in_channels: Count,
        *,
        kernel_size: Count | Sequence[Count] = 3,
        activation: Literal['softmax', 'relu'] = 'softmax',
        use_norm: bool = False,
        sub_sample: bool = False,
        out_bias: bool = True,
        norm_cfg: Cfg | None = dict(type='BN'),  # noqa: B006
        init: Init = 'pytorch',
        **options: Any,
    ) -> None:
        super().__init__(in_channels, norm_cfg=norm_cfg, init=init, **options)
        self.kernel_size = self._kernel_size(kernel_size)
        self.activation = activation
        self.use_norm = use_norm
        width = self.inner_channels
        self.theta = self.conv(in_channels, width)
        self.region = None
        if max(self.kernel_size) > 1:
            self.region = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.ndim - 1](
                width,
                width,
                self.kernel_size,
                padding=tuple(size // 2 for size in self.kernel_size),
                groups=width,
                bias=False,
            )
        self.pool = max_pool(self.ndim) if sub_sample else None
        self.conv_out = self.conv(
            width, in_channels, bias=out_bias, norm_cfg=self.norm_cfg
        )
        self.init_weights()

    def _kernel_size(self, kernel_size: int | tuple[int, ...]) -> tuple[int, ...]:
        if isinstance(kernel_size, int):
            kernel_size = (kernel_size,) * self.ndim
        if len(kernel_size) != self.ndim or any(
            size < 1 or size % 2 == 0 for size in kernel_size
        ):
            raise ValueError(
                f'RNLBlock: kernel_size must be an odd number or {self.ndim} odd '
                f'numbers (ndim={self.ndim}), but got {kernel_size!r}'
            )
        return tuple(kernel_size)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.region is not None:
            # Xavier-uniform on the dense kernel (C', C'/g, *k) with g = C'/32 groups,
            # of which the released code keeps the diagonal.
            width = self.inner_channels
            fan_in = width // max(width // 32, 1)
            bound = math.sqrt(6 / ((fan_in + width) * math.prod(self.kernel_size)))
            nn.init.uniform_(self.region.weight, -bound, bound)

    def key_grid(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(spatial) if self.pool is None else pooled_grid(spatial)

    def check_input(self, x: Tensor) -> None:
        super().check_input(x)
        if self.pool is not None and min(x.shape[2:][-2:]) < 2:
            raise ValueError(
                f'RNLBlock with sub_sample=True halves the map, so each pooled size '
                f'must be at least 2, but got {tuple(x.shape)}'
            )

    def affinity(self, x: Tensor) -> Affinity:
        self.check_input(x)
        return self._affinity(self.theta(x))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return self.output(x, self._filtered(self.theta(x)))

    def _filtered(self, theta: Tensor) -> Tensor:
        values = theta if self.pool is None else self.pool(theta)
        affinity = self._affinity(theta)
        return affinity.apply(tokens(values), matrix(self.conv_out))

    def _affinity(self, theta: Tensor) -> Affinity:
        regions = theta if self.region is None else self.region(theta)
        if self.use_norm:
            regions = F.normalize(regions, dim=1, eps=1e-12)
        query = tokens(regions)
        key = query if self.pool is None else tokens(self.pool(regions))
        if self.activation == 'relu':
            return ReLUAffinity(query, key)
        return SoftmaxAffinity(query, key, 1.0)
