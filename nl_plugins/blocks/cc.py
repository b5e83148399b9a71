# Copyright (c) The nl_plugins authors. All rights reserved.
"""CCNet: Criss-Cross Attention for Semantic Segmentation, Huang et al., ICCV 2019.

https://arxiv.org/abs/1811.11721
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch.nn as nn
from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, CrissCrossAffinity
from ..options import Count
from .base import Init, NonLocalBlock, fold

# Names in mmcv's and the SNL repository's criss-cross attention, and ours.
_OTHER_NAMES = {
    'query_conv.': 'theta.conv.',
    'key_conv.': 'phi.conv.',
    'value_conv.': 'g.conv.',
    'gamma.scale': 'gamma.weight',
    'gamma': 'gamma.weight',
}
_OTHER_NAME = re.compile(
    r'(units\.\d+\.)?(query_conv\.|key_conv\.|value_conv\.|gamma\.scale$|gamma$)'
)


class ScalarConv(nn.Conv1d):
    """``γ x`` with one learned number γ.

    A convolution of one channel, because optimiser constructors that sort parameters by
    layer type know convolutions, and pass over a parameter that a block holds itself.
    """

    def __init__(self) -> None:
        super().__init__(1, 1, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(()).to(x.dtype)


@MODELS.register_module()
class CCBlock(NonLocalBlock):
    """``x <- x + γ (A g(x))``, repeated; A joins a position to its row and column.

    ``A = softmax_j(θ_i·φ_j)`` over the H + W - 1 positions j of i's row and column; g
    keeps all C channels, and there is no output convolution. In 3D every frame is a map
    of its own: ``affinity(x)`` is (B T, H W, H W). State dicts of mmcv's
    ``CrissCrossAttention`` load as they are.

    Args:
        ndim (int): 2 or 3. Defaults to 2.
        reduction (int): θ and φ have ``in_channels // reduction`` channels: 8 in mmcv,
            2 in the SNL repository. Defaults to 8.
        recurrence (int): Passes R. Defaults to 2.
        shared (bool): One set of layers for all passes (mmcv), or R sets
            ``units.0``, ``units.1``, ... (the SNL repository). Defaults to True.
        options: See :class:`NonLocalBlock`; ``init`` defaults to 'pytorch', and
            ``zeros_init`` concerns γ, which is 1 without it.
    """

    _abbr_ = 'cc_block'
    ndims = (2, 3)
    variants = {
        'shared': {},
        'single': dict(recurrence=1),
        'independent': dict(shared=False, reduction=2),
    }

    def __init__(
        self,
        in_channels: Count,
        *,
        ndim: Literal[2, 3] = 2,
        reduction: Count = 8,
        recurrence: Count = 2,
        shared: bool = True,
        init: Init = 'pytorch',
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels, ndim=ndim, reduction=reduction, init=init, **options
        )
        if self.norm_cfg is not None:
            raise ValueError(
                f'CCBlock: norm_cfg must be None, there is no output convolution to '
                f'normalise, but got {self.norm_cfg!r}'
            )
        self.recurrence = recurrence
        self.shared = shared or recurrence == 1
        if not self.shared:
            self.units = nn.ModuleList(nn.Module() for _ in range(recurrence))
        for unit in [self] if self.shared else self.units:
            unit.theta = self.conv(in_channels, self.inner_channels)
            unit.phi = self.conv(in_channels, self.inner_channels)
            unit.g = self.conv(in_channels, in_channels)
            unit.gamma = ScalarConv()
        self.init_weights()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for unit in [self] if self.shared else self.units:
            nn.init.constant_(unit.gamma.weight, 0 if self.zeros_init else 1)

    def passes(self) -> Sequence[nn.Module]:
        """The layers of each pass."""
        return [self] * self.recurrence if self.shared else self.units

    def key_grid(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(spatial[-2:])

    def affinity(self, x: Tensor) -> Affinity:
        self.check_input(x)
        unit = self.passes()[0]
        return self._affinity(x, *self.project(x, unit.theta, unit.phi))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        for unit in self.passes():
            theta, phi, g = self.project(x, unit.theta, unit.phi, unit.g)
            out = self._affinity(x, theta, phi).apply(self._frames(x, g))
            x = x + unit.gamma(fold(out.reshape(g.shape), x))
        return x

    def _affinity(self, x: Tensor, theta: Tensor, phi: Tensor) -> Affinity:
        query, key = self._frames(x, theta), self._frames(x, phi)
        return CrissCrossAffinity(query, key, tuple(x.shape[-2:]))

    def _frames(self, x: Tensor, positions: Tensor) -> Tensor:
        """(B, T H W, C) -> (B T, H W, C) in 3D."""
        if self.ndim == 2:
            return positions
        return positions.reshape(-1, x.shape[-2] * x.shape[-1], positions.shape[2])

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        for key in list(state_dict):
            match = (
                _OTHER_NAME.match(key, len(prefix)) if key.startswith(prefix) else None
            )
            if match:
                value = state_dict.pop(key)
                name = _OTHER_NAMES[match[2]] + key[match.end() :]
                if name == 'gamma.weight':
                    value = value.reshape(1, 1, 1)
                state_dict[prefix + (match[1] or '') + name] = value
        super()._load_from_state_dict(state_dict, prefix, *args)
