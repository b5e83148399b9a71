# Copyright (c) The nl_plugins authors. All rights reserved.
"""The recognisers tell what runs inside them how many samples are in a batch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from mmaction.models.recognizers import BaseRecognizer, Recognizer2D, Recognizer3D

from ..attach.layout import clip_of_input, count_samples, samples_of


def telling_clips(predict):
    """``predict`` of a recogniser, inside which the frames of a clip are known.

    They are ``num_clips`` of the data samples, or ``clip_len`` where that is more than
    one frame and known, too. ``meta_keys`` of ``PackActionInputs`` must have them: a
    sample of a test may hold several crops of a clip.
    """

    @functools.wraps(predict)
    def told(self, inputs, data_samples, **options):
        first = next(iter(data_samples or ()), None)
        clip = getattr(first, 'num_clips', None)
        length = getattr(first, 'clip_len', None) or 1
        clip = length if length > 1 else clip
        with samples_of(inputs.shape[0], clip=clip):
            return predict(self, inputs, data_samples, **options)

    told.tells_clips = True
    return told


def telling_samples(extract_feat):
    """``extract_feat`` of a recogniser, inside which blocks know the samples.

    Frames of different videos are stacked in one batch there; a network with
    ``num_segments`` would join those of two videos without a word where only the whole
    batch is a multiple of it.
    """

    @functools.wraps(extract_feat)
    def told(self, inputs, stage='neck', data_samples=None, test_mode=False, **options):
        samples, frames = inputs.shape[:2]
        parts = nullcontext()
        if isinstance(self, Recognizer2D):
            _check_own(getattr(self.backbone, 'num_segments', None), frames)
            clip = clip_of_input() if test_mode else frames
            # A head that is told the frames of a clip, as TSM's is, knows best.
            of_head = getattr(getattr(self, 'cls_head', None), 'num_segments', None)
            clip = of_head if isinstance(of_head, int) else clip
        else:  # its views are clips, which the backbone takes as samples
            samples, frames, clip = samples * frames, inputs.shape[3], inputs.shape[3]
            if test_mode and (self.test_cfg or {}).get('max_testing_views'):
                parts = _removed_after(
                    self.backbone.register_forward_pre_hook(count_samples)
                )
        with samples_of(samples, frames, clip), parts:
            return extract_feat(
                self,
                inputs,
                stage=stage,
                data_samples=data_samples,
                test_mode=test_mode,
                **options,
            )

    told.tells_samples = True
    return told


@contextmanager
def _removed_after(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _check_own(num_segments: Any, frames: int) -> None:
    if isinstance(num_segments, int) and num_segments > 0 and frames % num_segments:
        raise ValueError(
            f'the backbone has num_segments={num_segments}, which does not divide the '
            f'{frames} frames of a sample: frames of different videos would be mixed; '
            'sample a multiple of num_segments frames (num_clips of SampleFrames)'
        )


def install() -> None:
    """Let the recognisers of mmaction tell, once."""
    for cls in (Recognizer2D, Recognizer3D):
        if not hasattr(cls.extract_feat, 'tells_samples'):
            cls.extract_feat = telling_samples(cls.extract_feat)
    if not hasattr(BaseRecognizer.predict, 'tells_clips'):
        BaseRecognizer.predict = telling_clips(BaseRecognizer.predict)
