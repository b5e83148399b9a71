# Copyright (c) The nl_plugins authors. All rights reserved.
"""Validation loss, which plateau schedules look at."""

from typing import Literal

import torch
import torch.nn.functional as F
from mmaction.registry import METRICS
from mmengine.evaluator import BaseMetric

from ..options import checked


@METRICS.register_module()
@checked
class CrossEntropyMetric(BaseMetric):
    """Mean cross-entropy ``-log p(label)`` of the videos, reported as ``val/loss``.

    For ``ReduceOnPlateauLR(monitor='val/loss', rule='less')``.

    Args:
        average_clips (str): What the head's option of that name makes the scores:
            ``'score'`` (logits) or ``'prob'`` (probabilities). Defaults to ``'prob'``.
        collect_device (str): Defaults to ``'cpu'``.
        prefix (str, optional): Replaces ``'val'``.

    Raises:
        ValueError: If ``average_clips`` is neither.
    """

    default_prefix = 'val'

    def __init__(
        self,
        average_clips: Literal['score', 'prob'] = 'prob',
        collect_device: Literal['cpu', 'gpu'] = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.average_clips = average_clips

    def process(self, data_batch, data_samples) -> None:
        """Store one loss a video."""
        for sample in data_samples:
            score = sample['pred_score'].float()
            log_p = (
                score.log() if self.average_clips == 'prob' else F.log_softmax(score, 0)
            )
            self.results.append(-log_p[int(sample['gt_label'])].item())

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """The mean."""
        return dict(loss=torch.tensor(results).mean().item())
