# Copyright (c) The nl_plugins authors. All rights reserved.
"""Video data sets that say which video is broken instead of replacing it."""

import io
import logging
import multiprocessing
import os
import os.path as osp
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
from mmaction.datasets import RawframeDataset, VideoDataset
from mmaction.registry import DATASETS, TRANSFORMS
from mmcv.transforms import BaseTransform
from mmengine.fileio import exists, get
from mmengine.logging import print_log

from ..compat.local_videos import bytes_missing
from ..compat.text_lists import leaves, read_list
from ..files import UnreadableError, open_picture
from ..options import Count, Filled, Natural, checked, documented

Check = Literal['list', 'files', 'decode']
_INTEGER = re.compile(r'[+-]?\d+')


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
            that these decode, with the pipeline's own reader and in a child process,
            which a decoder may end. Defaults to ``'list'``.
        min_frames (int): Shorter videos are bad. Defaults to 1.
        max_skipped (int): More bad videos than this are an error. Defaults to 100.
        allow_outside (bool): Take entries of the list that are absolute paths, URLs or
            hold ``..``. Defaults to False.
        *args, **kwargs: As upstream.

    Raises:
        ValueError: If an option is outside its choices, or the list is not UTF-8 text
            or leads out of the folder of the videos.
        RuntimeError: If a video is bad and must not be skipped, or none is left.
    """

    passed_on = dict(
        ann_file=str,
        data_prefix=dict,
        filename_tmpl=str,
        with_offset=bool,
        multi_class=bool,
        num_classes=Count | None,
        start_index=Natural,
        modality=Literal['RGB', 'Flow', 'Pose', 'Audio'],
        delimiter=Annotated[str, Filled()] | None,
        test_mode=bool,
        indices=int | Sequence[int] | None,
        lazy_init=bool,
    )

    def __init__(
        self,
        *args,
        on_error: Literal['raise', 'skip'] = 'raise',
        check: Check = 'list',
        min_frames: Count = 1,
        max_skipped: Natural = 100,
        allow_outside: bool = False,
        **kwargs,
    ) -> None:
        self.on_error = on_error
        self.check = check
        self.min_frames = min_frames
        self.max_skipped = max_skipped
        self.allow_outside = allow_outside
        self.skipped = {}
        name = type(self).__name__
        if kwargs.get('multi_class') and not kwargs.get('num_classes'):
            raise ValueError(
                f'{name}: multi_class=True needs num_classes, the number of classes'
            )
        if kwargs.get('data_prefix', {self.prefix: ''}).keys() != {self.prefix}:
            raise ValueError(
                f'{name}: data_prefix must be a dict with the key {self.prefix!r} '
                f'alone, but got {kwargs["data_prefix"]!r}'
            )
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """The upstream list without the entries whose check failed."""
        self._check_list()
        kept, failed = [], {}
        infos = super().load_data_list()
        for info, reason in zip(infos, self._problems(infos)):
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

    def _check_list(self) -> None:
        lines = read_list(self.ann_file).removesuffix('\n').split('\n')
        fewest, form = self._columns()
        for number, line in enumerate(lines, 1):
            columns = line.strip().split(getattr(self, 'delimiter', None))
            path, numbers = (columns or [''])[0], columns[1:]
            most = len(numbers) if self.multi_class else fewest + 1
            if (
                not path
                or not fewest <= len(numbers) <= most
                or not all(_INTEGER.fullmatch(text.strip()) for text in numbers)
            ):
                raise ValueError(
                    f'{self.ann_file}, line {number}: expected {form!r}, but got '
                    f'{line!r}'
                )
            if not self.allow_outside and leaves(path):
                raise ValueError(
                    f'{self.ann_file}, line {number}: {path!r} leaves the folder of '
                    'the videos; allow_outside=True takes such paths'
                )

    def _problems(self, infos: Sequence[dict]) -> Iterator[str | None]:
        look = in_a_child if self.check == 'decode' else map
        shown = time.monotonic()
        for number, reason in enumerate(look(self._problem, infos), 1):
            yield reason
            if time.monotonic() - shown > 30:
                shown = time.monotonic()
                print_log(
                    f'{self.ann_file}: checked {number} of {len(infos)} videos',
                    logger='current',
                )

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
            self._refuse_truncated(path)
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

    def _refuse_truncated(self, path: str) -> None:
        if osp.isfile(path) and bytes_missing(path):
            raise ValueError('truncated')

    def _columns(self) -> tuple[int, str]:
        """How many numbers must follow the path, and the line in words."""
        raise NotImplementedError

    def _path(self, info: dict) -> str:
        raise NotImplementedError

    def _problem(self, info: dict, every_frame: bool = False) -> str | None:
        raise NotImplementedError


@DATASETS.register_module()
@documented
class CheckedRawframeDataset(CheckedDataset, RawframeDataset):
    """``RawframeDataset`` with the options of :class:`CheckedDataset`."""

    prefix = 'img'

    def load_data_list(self) -> list[dict]:
        """As :class:`CheckedDataset`, after a look at ``filename_tmpl``."""
        try:
            names = {name for index in (1, 2) for name in self._names(index)}
        except (IndexError, KeyError, ValueError):
            names = set()
        if len(names) < 2:
            raise ValueError(
                f'{type(self).__name__}: filename_tmpl must have a place for the '
                f"number of the frame such as 'img_{{:05}}.jpg', but got "
                f'{self.filename_tmpl!r}'
            )
        return super().load_data_list()

    def _columns(self) -> tuple[int, str]:
        if self.with_offset:
            return 2, 'folder offset frames label'
        return 1, 'folder frames label'

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
                decode = every_frame or self.check == 'decode'
                if decode and not _is_picture(path):
                    return f'{path} is not a readable picture'
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

    prefix = 'video'

    def __init__(self, *args, check: Check = 'list', min_frames: Count = 1, **kwargs):
        if min_frames > 1 and check != 'decode':
            raise ValueError(
                f"{type(self).__name__}: min_frames={min_frames} needs check='decode', "
                'or RequireFrames in the pipeline'
            )
        super().__init__(*args, check=check, min_frames=min_frames, **kwargs)

    def _columns(self) -> tuple[int, str]:
        return 0, 'file label'

    def _path(self, info: dict) -> str:
        return info['filename']

    def _problem(self, info: dict, every_frame: bool = False) -> str | None:
        path = info['filename']
        if self.check == 'list' and not every_frame:
            return None
        if not exists(path):
            return 'no such file'
        if osp.isfile(path):
            if not osp.getsize(path):
                return 'the file is empty'
            missing = bytes_missing(path)
            if missing:
                return f'its last {missing} bytes are missing'
        if self.check == 'decode':
            try:
                frames = self._decode_ends(info)
            except Exception as error:  # decoders raise whatever they like
                return f'{type(error).__name__}: {error}'
            if frames < self.min_frames:
                return f'{frames} frames, min_frames={self.min_frames}'
        return None

    def _decode_ends(self, info: dict) -> int:
        """Decode the first and the last frame; returns how many there are."""
        results = dict(info, start_index=self.start_index, modality=self.modality)
        init, decode = self._reader()
        results = init.transform(results)
        frames = results['total_frames']
        if not frames:
            raise ValueError('no frame can be decoded')
        results['frame_inds'] = np.array([0, frames - 1])
        decode.transform(results)
        return frames

    def _reader(self) -> tuple[BaseTransform, BaseTransform]:
        """The steps of the pipeline that open and decode a video."""
        found = []
        for end in ('Init', 'Decode'):
            steps = getattr(self.pipeline, 'transforms', ())
            ours = (step for step in steps if type(step).__name__.endswith(end))
            found.append(
                next(ours, None) or TRANSFORMS.build(dict(type=f'Decord{end}'))
            )
        return tuple(found)


def in_a_child(look: Callable, items: Sequence) -> Iterator[str | None]:
    """``map(look, items)`` in a child process, which ``look`` may end.

    Yields:
        str | None: What ``look`` returned, or which signal ended the process.
    """
    context = multiprocessing.get_context('fork')
    done = 0
    while done < len(items):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_look_at, args=(look, items[done:], sender))
        child.start()
        sender.close()
        try:
            while done < len(items):
                yield receiver.recv()
                done += 1
        except EOFError:
            child.join()
            number = -(child.exitcode or 0)
            ended = signal.Signals(number).name if number > 0 else child.exitcode
            yield f'its decoder ends the process ({ended})'
            done += 1
        finally:
            receiver.close()
            child.terminate()
            child.join()


def _look_at(look: Callable, items: Sequence, sender) -> None:
    for item in items:
        sender.send(look(item))
    sender.close()
    os._exit(0)  # no exit handlers of the parent


def _is_picture(path: str) -> bool:
    try:
        open_picture(io.BytesIO(get(path)))
    except UnreadableError:
        return False
    return True


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
