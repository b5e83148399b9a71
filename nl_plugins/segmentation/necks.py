# Copyright (c) The nl_plugins authors. All rights reserved.
"""Non-local blocks between backbone and decode head."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.registry import MODELS
from torch import Tensor

from ..attach.neck import BaseNonLocalNeck


@MODELS.register_module()
class NonLocalNeck(BaseNonLocalNeck):
    """Blocks on chosen levels of the backbone's features; shapes stay.

    Both heads of an ``EncoderDecoder`` see the result::

        neck=dict(
            type='NonLocalNeck',
            in_channels=[256, 512, 1024, 2048],
            block=dict(type='SNLBlock'),
            levels=[2, 3])

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
