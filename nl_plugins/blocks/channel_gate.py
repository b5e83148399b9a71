# Copyright (c) The nl_plugins authors. All rights reserved.
"""Channel gates: GCNet-style context, and squeeze-and-excitation.

GCNet, Cao et al. 2019, https://arxiv.org/abs/1904.11492; SE, Hu et al., CVPR 2018,
https://arxiv.org/abs/1709.01507.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn as nn
from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, UnaryAffinity
from ..graph.products import tokens
from ..options import Cfg, Count
from .base import Init, NonLocalBlock, zero


@MODELS.register_module()
class ChannelGate(NonLocalBlock):
    """One context vector for all positions, added to them or multiplying them.

    ``'gc'``, as in the released code of RNL: ``z = x + W_2 relu(norm(W_1 c))`` with
    ``c = Σ_j softmax_j(w·x_j + b) x_j``. ``'se'``: ``z = x sigmoid(W_2 relu(W_1 c))``
    with c the mean; it is not the identity at the start.

    Args:
        kind (str): 'gc' or 'se'. Defaults to 'gc'.
        options: ``ndim``, ``reduction`` and others, see :class:`NonLocalBlock`;
            ``norm_cfg`` is that of the inner layer of 'gc' and defaults to BN1d with
            momentum 0.01, ``init`` defaults to 'pytorch'.

    Raises:
        ValueError: If an option is outside its choices, or a batch of one sample meets
            a batch norm in training.
    """

    _abbr_ = 'channel_gate'
    variants = {
        'gc': {},
        'gc_gn': dict(norm_cfg=dict(type='GN', num_groups=1)),
        'se': dict(kind='se'),
    }

    def __init__(
        self,
        in_channels: Count,
        *,
        kind: Literal['gc', 'se'] = 'gc',
        norm_cfg: Cfg | None = dict(type='BN1d', momentum=0.01),  # noqa: B006
        init: Init = 'pytorch',
        **options: Any,
    ) -> None:
        super().__init__(in_channels, norm_cfg=norm_cfg, init=init, **options)
        if norm_cfg is not None and norm_cfg.get('type') == 'BN':
            self.norm_cfg = {**norm_cfg, 'type': 'BN1d'}  # of vectors, not of maps
        self.kind = kind
        width = self.inner_channels
        self.norm = None
        if kind == 'gc':
            self.conv_mask = self.conv(in_channels, 1)
            if self.norm_cfg is not None:
                from mmcv.cnn import build_norm_layer

                _, self.norm = build_norm_layer(self.norm_cfg, width)
        else:
            self.zeros_init = False
        self.squeeze = nn.Linear(in_channels, width)
        self.excite = nn.Linear(width, in_channels)
        self.init_weights()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.zeros_init:
            zero(self.excite)

    def affinity(self, x: Tensor) -> Affinity:
        self.check_input(x)
        return UnaryAffinity(self._weights(x), tokens(x).shape[1])

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        # Every query has the same row, so one query is enough.
        context = UnaryAffinity(self._weights(x), 1).apply(tokens(x))
        hidden = self.squeeze(context.squeeze(1))
        if self.norm is not None:
            hidden = self.norm(hidden)
        gate = self.excite(torch.relu(hidden))
        gate = gate.view(*gate.shape, *[1] * self.ndim)
        return x + gate if self.kind == 'gc' else x * gate.sigmoid()

    def check_input(self, x: Tensor) -> None:
        super().check_input(x)
        if (
            self.training
            and x.shape[0] == 1
            and isinstance(self.norm, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))
        ):
            raise ValueError(
                'ChannelGate cannot train a batch norm on one sample a process: use '
                "a larger batch, SyncBN or norm_cfg=dict(type='GN', num_groups=1)"
            )

    def _weights(self, x: Tensor) -> Tensor:
        if self.kind == 'se':
            batch, positions, _ = tokens(x).shape
            return x.new_full((batch, positions), 1 / positions)
        return self.conv_mask(x).flatten(1).softmax(1)
