# Copyright (c) The nl_plugins authors. All rights reserved.
"""Non-local blocks between backbone and classification head."""

from collections.abc import Sequence

from mmpretrain.registry import MODELS
from torch import Tensor

from ..attach import BaseNonLocalNeck
from ..options import Cfg, Count, checked


@MODELS.register_module()
@checked
class NonLocalNeck(BaseNonLocalNeck):
    """Blocks on chosen feature levels, then the average over positions.

    A classifier of mmpretrain has one neck, so this one also does the work of
    ``GlobalAveragePooling``::

        neck=dict(type='NonLocalNeck', in_channels=2048, block=dict(type='SNLBlock'))

    Args:
        in_channels (int | Sequence[int]): Channels of the one feature map, or of
            each level.
        block (dict | Sequence[dict]): Config of a block, or of several in a row.
        levels (Sequence[int]): Levels that get blocks; negative ones count from the
            last. Defaults to (-1, ).
        pool (bool): Average over positions, as a linear head needs. Defaults to True.
        init_cfg (dict, optional): Config of an initialisation.
    """

    def __init__(
        self,
        in_channels: Count | Sequence[Count],
        block: Cfg | Sequence[Cfg],
        levels: Sequence[int] = (-1,),
        pool: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(in_channels, block, levels, init_cfg=init_cfg)
        self.pool = pool

    def forward(
        self, inputs: Tensor | tuple[Tensor, ...]
    ) -> Tensor | tuple[Tensor, ...]:
        """Maps (B, C, H, W) -> features (B, C), or maps without ``pool``."""
        features = self.refine(inputs)
        if not self.pool:
            return features
        if isinstance(features, Tensor):
            return features.mean((2, 3))
        return tuple(feature.mean((2, 3)) for feature in features)
