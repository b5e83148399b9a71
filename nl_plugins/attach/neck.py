# Copyright (c) The nl_plugins authors. All rights reserved.
"""Blocks on the features between backbone and head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from mmengine.model import BaseModule
from torch import Tensor

from ..options import Cfg, Count, Filled, checked, documented
from .sequence import BlockSequence


@checked
class BaseNonLocalNeck(BaseModule):
    """Blocks on chosen feature levels; shapes and the other levels stay.

    The codebases call their necks differently, so each registers a subclass
    ``NonLocalNeck`` whose ``forward`` calls :meth:`refine`. The parameters of level i
    are ``level<i>.<abbreviation of the block>.*``.

    Args:
        in_channels (int | Sequence[int]): Channels of the one feature map, or of
            each level.
        block (dict | Sequence[dict]): Config of a block, or of several in a row.
        levels (Sequence[int]): Levels that get blocks; negative ones count from the
            last. Defaults to (-1, ).
        num_segments (int | str, optional): Frames of a clip, or ``'input'``, see
            :func:`NonLocalBackbone`; 3D blocks then see features (N * T, C, H, W) as
            (N, C, T, H, W). Defaults to None.
        init_cfg (dict, optional): Config of an initialisation.

    Raises:
        ValueError: If a level does not exist or is named twice, or features of another
            number of levels arrive.
    """

    def __init__(
        self,
        in_channels: Count | Annotated[Sequence[Count], Filled()],
        block: Cfg | Annotated[Sequence[Cfg], Filled()],
        levels: Annotated[Sequence[int], Filled()] = (-1,),
        num_segments: Count | Literal['input'] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        widths = [in_channels] if isinstance(in_channels, int) else list(in_channels)
        for level in levels:
            if not -len(widths) <= level < len(widths):
                raise ValueError(
                    f'level {level} does not exist: in_channels={in_channels} has the '
                    f'levels 0 to {len(widths) - 1}'
                )
        chosen = sorted(level % len(widths) for level in levels)
        if len(set(chosen)) < len(chosen):
            raise ValueError(
                f'levels={tuple(levels)} names a level of {len(widths)} twice: a list '
                'in block puts several blocks there'
            )
        self.in_channels = in_channels
        self.num_levels = len(widths)
        self.num_segments = num_segments
        self.levels = chosen
        blocks = [block] if isinstance(block, dict) else list(block)
        for level in self.levels:
            sequence = BlockSequence(
                widths[level], blocks=blocks, num_segments=num_segments
            )
            self.add_module(f'level{level}', sequence)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        documented(cls)

    def refine(self, inputs: Tensor | Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """Features with the blocks applied; a tensor for a tensor, else a tuple."""
        single = isinstance(inputs, Tensor)
        features = [inputs] if single else list(inputs)
        if len(features) != self.num_levels:
            raise ValueError(
                f'{type(self).__name__} with in_channels={self.in_channels} takes '
                f'{self.num_levels} feature level(s), but got {len(features)}'
            )
        for level in self.levels:
            features[level] = getattr(self, f'level{level}')(features[level])
        return features[0] if single else tuple(features)
