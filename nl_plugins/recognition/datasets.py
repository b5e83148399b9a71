# Copyright (c) The nl_plugins authors. All rights reserved.
"""Video data sets that say which video is broken instead of replacing it."""

import io
import logging
import os.path as osp
from typing import Literal

from mmaction.datasets import RawframeDataset, VideoDataset
from mmaction.registry import DATASETS, TRANSFORMS
from mmcv.transforms import BaseTransform
from mmengine.fileio import exists, get
from mmengine.logging import print_log

from ..files import UnreadableError, open_picture, video_problem
from ..options import Count, Natural, checked, documented

Check = Literal['list', 'files', 'decode']


@checked
class CheckedDataset:
    """A rule for missing, short and broken videos, before a data set of mmaction2.

    Nothing is replaced without a word: upstream's data sets draw another random video
    when a pipeline returns None.

    Args:
        on_error (str): ``'raise'`` stops at the first bad video, ``'skip'`` logs and
            counts it (``skipped``, path to reason; each worker process counts its own)
            and leaves it out. In training its place in the batch goes to another
            video; in test mode only ``check`` may leave a video out.
            Defaults to ``'raise'``.
        check (str): What is looked at when the list is read: ``'list'`` the list alone,
            ``'files'`` that the video or its first and last frame exist, ``'decode'``
            that these decode. Defaults to ``'list'``.
        min_frames (int): Shorter videos are bad. Defaults to 1.
        max_skipped (int): More bad videos than this are an error. Defaults to 100.
        *args, **kwargs: As upstream.

    Raises:
        ValueError: If an option is outside its choices.
        RuntimeError: If a video is bad and must not be skipped, or none is left.
    """

    def __init__(
        self,
        *args,
        on_error: Literal['raise', 'skip'] = 'raise',
        check: Check = 'list',
        min_frames: Count = 1,
        max_skipped: Natural = 100,
        **kwargs,
    ) -> None:
        self.on_error = on_error
        self.check = check
        self.min_frames = min_frames
        self.max_skipped = max_skipped
        self.skipped = {}
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """The upstream list without the entries whose check failed."""
        kept, failed = [], {}
        for info in super().load_data_list():
            reason = self._problem(info)
            if reason is None:
                kept.append(info)
            else:
                failed[self._path(info)] = reason
        for path, reason in failed.items():
            self._skip(path, reason)
        if not kept:
            raise RuntimeError(f'{self.ann_file}: no video is left to use')
        if failed:
            print_log(
                f'{self.ann_file}: skipped {len(failed)} of {len(kept) + len(failed)} '
                'videos',
                logger='current',
                level=logging.WARNING,
            )
        return kept

    def prepare_data(self, idx: int):
        """Run the pipeline; an error names the video, and is skipped if asked to.

        Raises:
            RuntimeError: The video cannot be read, and ``on_error='raise'``, or the
                data set is in test mode, where leaving one out would change the result.
        """
        info = self.get_data_info(idx)
        path = self._path(info)
        if path in self.skipped:
            return None
        try:
            self._require_whole(info)
            return super().prepare_data(idx)
        except Exception as error:  # decoders raise whatever they like
            reason = self._problem(info, every_frame=True)
            reason = reason or f'{type(error).__name__}: {error}'
            if self.test_mode and self.on_error == 'skip':
                raise RuntimeError(
                    f'{path} (item {idx} of {self.ann_file}) cannot be read '
                    f"({reason}); check='decode' leaves such videos out before the test"
                ) from error
            self._skip(path, reason, error)
            return None

    def _skip(self, path: str, reason: str, cause: Exception | None = None) -> None:
        if self.on_error == 'raise':
            raise RuntimeError(
                f'{path} of {self.ann_file} cannot be used ({reason}); repair or '
                "remove it, or set on_error='skip' in the data set"
            ) from cause
        self.skipped[path] = reason
        print_log(
            f'Skipped {path} ({reason}), number {len(self.skipped)} of {self.ann_file}',
            logger='current',
            level=logging.WARNING,
        )
        if len(self.skipped) > self.max_skipped:
            raise RuntimeError(
                f'{self.ann_file}: more than max_skipped={self.max_skipped} videos '
                f'cannot be used, the last is {path} ({reason})'
            ) from cause

    def _require_whole(self, info: dict) -> None:
        """Raise for what the pipeline would take without a word."""

    def _path(self, info: dict) -> str:
        raise NotImplementedError

    def _problem(self, info: dict, every_frame: bool = False) -> str | None:
        raise NotImplementedError


@DATASETS.register_module()
@documented
class CheckedRawframeDataset(CheckedDataset, RawframeDataset):
    """``RawframeDataset`` with the options of :class:`CheckedDataset`."""

    def _path(self, info: dict) -> str:
        return info['frame_dir']

    def _problem(self, info: dict, every_frame: bool = False) -> str | None:
        frames = info['total_frames']
        if frames < self.min_frames:
            return f'{frames} frames, min_frames={self.min_frames}'
        if self.check == 'list' and not every_frame:
            return None
        first = self.start_index + info.get('offset', 0)
        indices = range(first, first + frames)
        for index in indices if every_frame else (indices[0], indices[-1]):
            for name in self._names(index):
                path = osp.join(info['frame_dir'], name)
                if not exists(path):
                    return f'no file {path}'
                if every_frame or self.check == 'decode':
                    try:
                        open_picture(io.BytesIO(get(path)))
                    except UnreadableError as error:
                        return f'{path} is not a readable picture: {error}'
        return None

    def _names(self, index: int) -> list[str]:
        # One field alone: the components lie in two trees, see FlowFolderDecode.
        if self.modality == 'Flow' and self.filename_tmpl.count('{') == 2:
            return [self.filename_tmpl.format(axis, index) for axis in 'xy']
        return [self.filename_tmpl.format(index)]


@DATASETS.register_module()
@checked
class CheckedVideoDataset(CheckedDataset, VideoDataset):
    """``VideoDataset`` with the options of :class:`CheckedDataset`.

    ``min_frames`` needs ``check='decode'``; :class:`RequireFrames` in the pipeline
    checks each video when it is used instead.
    """

    def __init__(self, *args, check: Check = 'list', min_frames: Count = 1, **kwargs):
        if min_frames > 1 and check != 'decode':
            raise ValueError(
                f"{type(self).__name__}: min_frames={min_frames} needs check='decode', "
                'or RequireFrames in the pipeline'
            )
        super().__init__(*args, check=check, min_frames=min_frames, **kwargs)

    def _require_whole(self, info: dict) -> None:
        problem = _cut_off(info['filename'])
        if problem is not None:
            raise ValueError(problem)

    def _path(self, info: dict) -> str:
        return info['filename']

    def _problem(self, info: dict, every_frame: bool = False) -> str | None:
        path = info['filename']
        if every_frame or self.check != 'list':
            if not exists(path):
                return 'no such file'
            problem = _cut_off(path)
            if problem is not None:
                return problem
        if self.check == 'decode':
            try:
                frames = _count_frames(path)
            except Exception as error:  # decoders raise whatever they like
                return f'{type(error).__name__}: {error}'
            if frames < self.min_frames:
                return f'{frames} frames, min_frames={self.min_frames}'
        return None


def _cut_off(path: str) -> str | None:
    if not osp.isfile(path):
        return None  # of another backend
    with open(path, 'rb') as file:
        return video_problem(file)


def _count_frames(path: str) -> int:
    import decord

    video = decord.VideoReader(path, num_threads=1)
    video[0], video[len(video) - 1]
    return len(video)


@TRANSFORMS.register_module()
@checked
class RequireFrames(BaseTransform):
    """Refuse videos with fewer frames than wanted; after ``DecordInit`` or its like.

    Required keys: ``total_frames``.

    Args:
        min_frames (int): Lowest number of frames.

    Raises:
        ValueError: If the video is shorter. A checked data set turns it into its rule.
    """

    def __init__(self, min_frames: Count) -> None:
        self.min_frames = min_frames

    def transform(self, results: dict) -> dict:
        """Pass the results on."""
        frames = results['total_frames']
        if frames < self.min_frames:
            raise ValueError(f'{frames} frames, min_frames={self.min_frames}')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(min_frames={self.min_frames})'
