# Copyright (c) The nl_plugins authors. All rights reserved.
"""Classification head of inception-I3D-NON-LOCAL."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch.nn.functional as F
from mmaction.models import I3DHead
from mmaction.registry import MODELS
from torch import Tensor

from ..options import Cfg, Count, Filled, Range, Share, checked


@MODELS.register_module()
@checked
class InceptionI3DHead(I3DHead):
    """Average over sliding windows, classify each, average the logits.

    x (B, in_channels, T, H, W) is averaged over windows at stride 1; the logits of
    the classifier, being linear, are averaged over the windows before it. With a
    window of two frames and T = 8 the frames count 1, 2, 2, 2, 2, 2, 2, 1 (of 14).
    A map larger than the window in space gives more windows, whose logits are
    averaged too. Dropout acts on the map of windows.

    The network without non-local blocks pools globally: use mmaction's ``I3DHead``.

    Args:
        num_classes (int): Classes.
        in_channels (int): Channels of the feature map. Defaults to 1024.
        window (tuple[int]): Window (T, H, W). Defaults to (2, 7, 7).
        **kwargs: Arguments of ``I3DHead``: ``dropout_ratio``, ``init_std``,
            ``loss_cls``, ``average_clips``, ...

    Raises:
        ValueError: If the map is smaller than the window: fewer than 10 frames or
            less than 224 x 224 pixels for the default.
    """

    passed_on = dict(
        loss_cls=Cfg,
        dropout_ratio=Share,
        init_std=Annotated[float, Range(0)],
        multi_class=bool,
        label_smooth_eps=Share,
        topk=Count | Annotated[Sequence[Count], Filled()],
        average_clips=Literal['score', 'prob'] | None,
    )

    def __init__(
        self,
        num_classes: Count,
        in_channels: Count = 1024,
        window: tuple[Count, Count, Count] = (2, 7, 7),
        **kwargs,
    ) -> None:
        super().__init__(num_classes, in_channels, spatial_type=None, **kwargs)
        self.window = tuple(window)

    def forward(self, x: Tensor, **kwargs) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, num_classes)."""
        if any(size < wanted for size, wanted in zip(x.shape[2:], self.window)):
            raise ValueError(
                f'InceptionI3DHead averages windows of {self.window} (T, H, W), but '
                f'the feature map is {tuple(x.shape[2:])}: feed more frames or larger '
                'frames, or set a smaller window'
            )
        x = F.avg_pool3d(x, self.window, stride=1)
        if self.dropout is not None:
            x = self.dropout(x)
        return self.fc_cls(x.mean(dim=(2, 3, 4)))
