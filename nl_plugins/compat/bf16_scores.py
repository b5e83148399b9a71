# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmaction's heads turn their scores into numpy arrays, which have no bf16."""

import torch

from .imports import is_installed
from .repair import Repair, replace


def _in_single_precision(original):
    def loss_by_feat(self, cls_scores, *args, **kwargs):
        if isinstance(cls_scores, torch.Tensor) and cls_scores.dtype == torch.bfloat16:
            cls_scores = cls_scores.float()
        return original(self, cls_scores, *args, **kwargs)

    return loss_by_feat


def needed() -> bool:
    return is_installed('mmaction')


def apply(module) -> None:
    replace(module.BaseHead, 'loss_by_feat', _in_single_precision)


REPAIR = Repair(
    name='bf16_scores',
    symptom='training with bf16 scores fails in the heads of mmaction',
    remedy='bf16 scores become float32 before the loss and the accuracy',
    upstream='mmaction/models/heads/base.py',
    needed=needed,
    apply=apply,
    modules=('mmaction.models.heads.base',),
)
