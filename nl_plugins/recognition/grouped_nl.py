# Copyright (c) The nl_plugins authors. All rights reserved.
"""Non-local blocks that look a few frames far."""

from typing import Any, Literal

from mmaction.registry import MODELS
from torch import Tensor

from ..blocks import NLBlock
from ..graph import Affinity
from ..options import Count


@MODELS.register_module()
class GroupedNLBlock(NLBlock):
    """An ``NLBlock`` on every run of ``group_size`` frames by itself.

    video-nonlocal-net puts it after res3 of its long-range models (128x1 and 32x4
    frames), whose positions are too many for one graph. Parameters and keys are
    those of ``NLBlock``.

    Args:
        in_channels (int): Channels C of the input and the output.
        group_size (int): Frames of a group; they must divide those of the input.
            Defaults to 4.
        options: Options of ``NLBlock``; ``ndim`` is 3.

    Raises:
        ValueError: If ``group_size`` does not divide the frames.
    """

    def __init__(
        self,
        in_channels: Count,
        *,
        ndim: Literal[3] = 3,
        group_size: Count = 4,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, ndim=ndim, **options)
        self.group_size = group_size

    def key_grid(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Grid of the key positions of one group."""
        return super().key_grid((self.group_size, *spatial[1:]))

    def affinity(self, x: Tensor) -> Affinity:
        """The graphs of the groups, one after the other along the batch."""
        return super().affinity(self._split(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T, H, W)."""
        out = super().forward(self._split(x))
        groups = x.shape[2] // self.group_size
        return out.unflatten(0, (-1, groups)).transpose(1, 2).flatten(2, 3)

    def _split(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B * T / group_size, C, group_size, H, W)."""
        self.check_input(x)
        if x.shape[2] % self.group_size:
            raise ValueError(
                f'GroupedNLBlock: group_size={self.group_size} does not divide the '
                f'{x.shape[2]} frames of {tuple(x.shape)}'
            )
        return x.unflatten(2, (-1, self.group_size)).transpose(1, 2).flatten(0, 1)
