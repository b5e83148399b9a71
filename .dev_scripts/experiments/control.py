# Copyright (c) The nl_plugins authors. All rights reserved.
"""The control of the experiments: as many layers, and no position sees another."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS
from torch import Tensor

from nl_plugins.blocks import NonLocalBlock


@MODELS.register_module()
class PointwiseBlock(NonLocalBlock):
    """``z = x + BN(W_2 relu(W_1 x))`` of two 1x1 convolutions of C channels.

    With 2 C² weights it has as many as a non-local block of four C x C/2 convolutions.

    Args:
        in_channels (int): Channels C of the input and the output.
        options: ``ndim``, ``zeros_init`` and others, see :class:`NonLocalBlock`.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        norm_cfg: dict | None = dict(type='BN'),  # noqa: B006
        **options: Any,
    ) -> None:
        super().__init__(in_channels, norm_cfg=norm_cfg, **options)
        self.conv_in = self.conv(in_channels, in_channels, act_cfg=dict(type='ReLU'))
        self.conv_out = self.conv(in_channels, in_channels, norm_cfg=self.norm_cfg)
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return x + self.conv_out(self.conv_in(x))
