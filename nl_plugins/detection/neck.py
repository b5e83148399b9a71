# Copyright (c) The nl_plugins authors. All rights reserved.
"""Non-local blocks between the feature pyramid and the heads of a detector."""

from __future__ import annotations

from collections.abc import Sequence

from mmdet.registry import MODELS
from torch import Tensor

from ..attach.neck import BaseNonLocalNeck


@MODELS.register_module()
class NonLocalNeck(BaseNonLocalNeck):
    """Blocks on chosen levels of a feature pyramid; shapes stay.

    A detector takes a list as its neck, here a pyramid of five levels and a block on
    its fourth, of a thirty-second of the image::

        neck=[
            dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256,
                 num_outs=5),
            dict(
                type='NonLocalNeck',
                in_channels=[256] * 5,
                block=dict(type='SNLBlock'),
                levels=[3])]

    The arguments are those of
    :class:`~nl_plugins.attach.neck.BaseNonLocalNeck`.
    """

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Features with the blocks applied.

        Args:
            inputs (Sequence[Tensor]): One map (B, C_i, H_i, W_i) a level.

        Returns:
            tuple[Tensor, ...]: Maps of the same shapes.
        """
        return self.refine(inputs)
