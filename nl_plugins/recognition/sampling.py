# Copyright (c) The nl_plugins authors. All rights reserved.
"""Temporal sampling where the originals differ from mmaction2.

``DenseSampleFrames`` and the test modes of ``SampleFrames`` already equal RNL's
and TSM's rules and are used as they are.
"""

from typing import Annotated, Literal

import numpy as np
from mmaction.datasets.transforms import SampleFrames
from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform

from ..options import Count, Range, checked


@TRANSFORMS.register_module()
@checked
class SegmentSampleFrames(SampleFrames):
    """One frame from each of T equal segments, the uniform sampling of TSM and RNL.

    For n frames (indices from 0; ``start_index`` is added): training takes
    ``i d + randint(d)`` with d = n // T, validation ``int(n / T (i + 1/2))``. Where the
    video is too short (n < T in training, n <= T in validation) both take its first
    frame T times; ``SampleFrames`` spreads what there is. For testing use
    ``SampleFrames(..., test_mode=True)``: it equals the original.

    Args:
        num_clips (int): Number of segments T.
        test_mode (bool): Validation's rule instead of training's. Defaults to False.

    Raises:
        ValueError: If ``num_clips`` is not a positive integer.
    """

    def __init__(self, num_clips: Count, test_mode: bool = False) -> None:
        super().__init__(clip_len=1, num_clips=num_clips, test_mode=test_mode)

    def _sample_clips(self, num_frames: int, ori_clip_len: float) -> np.ndarray:
        shortest = self.num_clips + 1 if self.test_mode else self.num_clips
        if num_frames < shortest:
            return np.zeros(self.num_clips, dtype=np.int64)
        return super()._sample_clips(num_frames, ori_clip_len)


@TRANSFORMS.register_module()
@checked
class EvenStartSampleFrames(SampleFrames):
    """Test clips that start at ``int(n / num_clips j)`` and wrap around.

    The test sampling of the original non-local networks (Wang et al. 2018): clip j
    holds the frames ``(start_j + interval k) mod n``, k = 0 .. clip_len - 1.
    ``SampleFrames`` spreads the starts so that the last clip ends with the video.

    Args:
        clip_len (int): Frames of a clip.
        frame_interval (int): Distance between them. Defaults to 1.
        num_clips (int): Number of clips. Defaults to 10.
    """

    def __init__(
        self, clip_len: Count, frame_interval: Count = 1, num_clips: Count = 10
    ) -> None:
        super().__init__(
            clip_len=clip_len,
            frame_interval=frame_interval,
            num_clips=num_clips,
            test_mode=True,
        )

    def _get_test_clips(self, num_frames: int, ori_clip_len: float) -> np.ndarray:
        return np.arange(self.num_clips) * num_frames // self.num_clips


@TRANSFORMS.register_module()
@checked
class WindowSampleFrames(BaseTransform):
    """Windows of consecutive frames, each looped within itself when it is cut short.

    The sampling of Hara et al.'s 3D-ResNets, hence of inception-I3D-NON-LOCAL and of
    the 3D experiment of Non-Local-NN-Pytorch. For n frames and windows of D:

    * ``'random'`` (training): one window that begins at a random frame of
      ``0 .. max(0, n - D - 1)``.
    * ``'spaced'`` (validation): windows that begin every ``max(1, ceil((n - 1 - D) /
      (num_windows - 1)))`` frames before the last frame. A video of at most
      ``D + num_windows`` frames gives up to n - 1 of them: what the original does.
    * ``'consecutive'`` (test): windows that begin every D frames before the last.

    The number of windows differs between videos, so the last two need ``batch_size=1``.

    Required keys: ``total_frames``, ``start_index``. Added keys: ``frame_inds``,
    ``clip_len``, ``frame_interval``, ``num_clips``.

    Args:
        clip_len (int): Frames of a window, D. Defaults to 64.
        mode (str): ``'random'``, ``'spaced'`` or ``'consecutive'``.
            Defaults to ``'random'``.
        num_windows (int): Aimed number of ``'spaced'`` windows. Defaults to 3.

    Raises:
        ValueError: If an option is outside its choices.
    """

    def __init__(
        self,
        clip_len: Count = 64,
        mode: Literal['random', 'spaced', 'consecutive'] = 'random',
        num_windows: Annotated[int, Range(2)] = 3,
    ) -> None:
        self.clip_len = clip_len
        self.mode = mode
        self.num_windows = num_windows

    def _starts(self, num_frames: int) -> np.ndarray:
        if self.mode == 'random':
            latest = max(0, num_frames - self.clip_len - 1)
            return np.random.randint(latest + 1, size=1)
        step = self.clip_len
        if self.mode == 'spaced':
            gap = num_frames - 1 - self.clip_len
            step = max(1, -(-gap // (self.num_windows - 1)))
        # The last frame begins no window, unless it is the only one.
        return np.arange(0, max(1, num_frames - 1), step)

    def transform(self, results: dict) -> dict:
        """Add the frame indices of the windows, one after the other."""
        num_frames = results['total_frames']
        starts = self._starts(num_frames)
        lengths = np.minimum(self.clip_len, num_frames - starts)
        offsets = np.arange(self.clip_len) % lengths[:, None]
        indices = starts[:, None] + offsets + results['start_index']
        results['frame_inds'] = indices.reshape(-1).astype(np.int32)
        results['clip_len'] = self.clip_len
        results['frame_interval'] = 1
        results['num_clips'] = len(starts)
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(clip_len={self.clip_len}, mode={self.mode!r}, '
            f'num_windows={self.num_windows})'
        )
