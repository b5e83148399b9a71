# Copyright (c) The nl_plugins authors. All rights reserved.
"""The linear head with dropout."""

from collections.abc import Sequence
from typing import Annotated

from mmpretrain.models.heads import LinearClsHead
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..options import Cfg, Count, Filled, Range, checked


@MODELS.register_module()
@checked
class LinearDropoutClsHead(LinearClsHead):
    """``fc(dropout(features))``: the classifier of the SNL and CGNL networks.

    Args:
        num_classes (int): Number of classes.
        in_channels (int): Channels of the pooled features.
        dropout_ratio (float): Probability of zeroing a feature in training.
            Defaults to 0.5, as in both originals.
        **kwargs: Arguments of mmpretrain's ``LinearClsHead``.

    Raises:
        ValueError: If ``dropout_ratio`` is not in [0, 1).
    """

    passed_on = dict(
        loss=Cfg, topk=Count | Annotated[Sequence[Count], Filled()], cal_acc=bool
    )

    def __init__(
        self,
        num_classes: Count,
        in_channels: Count,
        dropout_ratio: Annotated[float, Range(0, 1, '[)')] = 0.5,
        **kwargs,
    ) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.dropout = nn.Dropout(dropout_ratio)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Pooled features (B, C) of each stage -> scores (B, num_classes)."""
        return self.fc(self.dropout(self.pre_logits(feats)))
