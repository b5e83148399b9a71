# Copyright (c) The nl_plugins authors. All rights reserved.
"""decord ends the process on an AVI file in memory that was cut off."""

from __future__ import annotations

import io
import os.path as osp

from ..files import video_problem
from .repair import Repair, replace


def _by_path(original):
    def _get_video_reader(self, filename: str):
        try:
            import decord
        except ImportError:
            return original(self, filename)  # which says what to install
        if not osp.splitext(filename)[1]:
            filename += '.mp4'  # as upstream
        local = self.io_backend in ('disk', 'local')
        try:
            if local:
                return decord.VideoReader(filename, num_threads=self.num_threads)
            if self.file_client is None:
                from mmengine.fileio import FileClient

                self.file_client = FileClient(self.io_backend, **self.kwargs)
            file = io.BytesIO(self.file_client.get(filename))
            problem = video_problem(file)
            if problem is not None:
                raise ValueError(problem)
            file.seek(0)
            return decord.VideoReader(file, num_threads=self.num_threads)
        except Exception as error:  # decoders raise whatever they like
            if local and not osp.exists(filename):
                message = f'the video {filename} does not exist'
                raise FileNotFoundError(message) from None
            reason = f'{type(error).__name__}: {error}'.splitlines()[0]
            raise RuntimeError(
                f'{filename} cannot be read as a video ({reason}); repair or remove it'
            ) from error

    return _get_video_reader


def apply(module) -> None:
    replace(module.DecordInit, '_get_video_reader', _by_path)


REPAIR = Repair(
    name='video_files',
    symptom='decord crashes on truncated AVI files in memory, and names no file',
    remedy='DecordInit opens local files by their path and names what it cannot read',
    upstream='https://github.com/dmlc/decord, mmaction/datasets/transforms/loading.py',
    needed=lambda: True,
    apply=apply,
    modules=('mmaction.datasets.transforms.loading',),
)
