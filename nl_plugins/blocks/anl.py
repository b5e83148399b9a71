# Copyright (c) The nl_plugins authors. All rights reserved.
"""Asymmetric Non-local Neural Networks, Zhu et al., ICCV 2019.

https://arxiv.org/abs/1908.07678
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, SoftmaxAffinity
from ..graph.lazy import Map
from ..graph.pooling import average_pyramid
from ..graph.products import tokens
from ..options import Cfg, Count, Filled
from .base import Init, NonLocalBlock, linear_map, matrix


@MODELS.register_module()
class ANLBlock(NonLocalBlock):
    """``z = x + W_z (A g)``; keys and values are a pyramid of averages of the map.

    θ = relu(BN(conv(x))) serves as query and, averaged over s x s cells for each s of
    ``pool_sizes``, as key κ; the values are averages of g(x). With C' inner channels,
    ``A = softmax_j(C'^-1/2 θ_i·κ_j)`` is N x 110 for the default sizes in 2D.

    The originals compute θ twice, once as query and once as key, so that training
    updates the running statistics of its norm twice a step; a norm of momentum
    1 - (1 - m)² (``theta_norm_cfg=dict(type='BN', momentum=0.19)``) does so in one.

    Args:
        pool_sizes (Sequence[int]): Cells along each dimension. Defaults to
            (1, 3, 6, 8).
        key_bias (bool): Whether the convolution of θ has a bias: True in the SNL
            repository, False in mmseg. Defaults to True.
        theta_norm_cfg (dict, optional): Norm of θ if it is not ``norm_cfg``.
            Defaults to None.
        fusion (str): 'add' is the formula above (the SNL repository); 'concat' is
            ``z = relu(BN(conv([W_z (A g), x])))`` without a residual (mmseg), which
            does not start as the identity. Defaults to 'add'.
        options: ``ndim``, ``reduction`` and others, see :class:`NonLocalBlock`;
            ``norm_cfg``, that of θ and of the fusion, defaults to BN, ``init`` to
            'kaiming_fan_out'.
    """

    _abbr_ = 'anl_block'
    variants = {
        'add': {},
        'concat': dict(fusion='concat', key_bias=False),
        'small_pyramid': dict(pool_sizes=(1, 2), norm_cfg=None),
    }

    def __init__(
        self,
        in_channels: Count,
        *,
        pool_sizes: Annotated[Sequence[Count], Filled()] = (1, 3, 6, 8),
        key_bias: bool = True,
        theta_norm_cfg: Cfg | None = None,
        fusion: Literal['add', 'concat'] = 'add',
        norm_cfg: Cfg | None = dict(type='BN'),  # noqa: B006
        init: Init = 'kaiming_fan_out',
        **options: Any,
    ) -> None:
        super().__init__(in_channels, norm_cfg=norm_cfg, init=init, **options)
        self.pool_sizes = tuple(pool_sizes)
        self.fusion = fusion
        width = self.inner_channels
        relu = dict(type='ReLU')
        self.theta = self.conv(
            in_channels,
            width,
            bias=key_bias,
            norm_cfg=theta_norm_cfg or self.norm_cfg,
            act_cfg=relu,
        )
        self.g = self.conv(in_channels, width)
        self.conv_out = self.conv(width, in_channels)
        if fusion == 'concat':
            self.bottleneck = self.conv(
                2 * in_channels,
                in_channels,
                bias=self.norm_cfg is None,
                norm_cfg=self.norm_cfg,
                act_cfg=relu,
            )
        self.init_weights()

    @property
    def starts_as_identity(self) -> bool:
        return super().starts_as_identity and self.fusion == 'add'

    def key_grid(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        return (sum(size**self.ndim for size in self.pool_sizes),)

    def affinity(self, x: Tensor) -> Affinity:
        self.check_input(x)
        theta = self.theta(x)
        key = average_pyramid(theta, self.pool_sizes)
        return SoftmaxAffinity(tokens(theta), tokens(key), self.inner_channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        affinity = self.affinity(x)
        filtered = affinity.apply(self._values(x), matrix(self.conv_out))
        if self.fusion == 'add':
            return self.output(x, filtered)
        context = self.output(torch.zeros_like(x), filtered)
        return self.bottleneck(torch.cat([context, x], dim=1))

    def _values(self, x: Tensor) -> Map:
        """The averages of g(x), (B, M, C')."""
        if linear_map(self.g) is None:
            return tokens(average_pyramid(self.g(x), self.pool_sizes))
        # A linear map may follow the averages, which are fewer.
        (g,) = self.maps(average_pyramid(x, self.pool_sizes), self.g)
        return g
