# Copyright (c) The nl_plugins authors. All rights reserved.
"""decord ends the process at a truncated AVI that it reads from memory.

mmaction2 reads a whole video into memory first. There decord 0.6 ends in a
segmentation fault where the same file, opened by its path, gives the frames it has; and
what decoders say (``Error reading 24541 bytes``) names no file.
"""

import os
import struct
import warnings

from .imports import is_installed
from .repair import Repair, replace

_READERS = ('Decord', 'OpenCV', 'PyAV', 'PIMS')


def bytes_missing(path: str | os.PathLike) -> int:
    """How much shorter a local video is than its container says.

    Read from the headers of the outermost level alone: chunks of RIFF (AVI), boxes of
    ISO media (MP4, MOV) and elements of EBML (Matroska, WebM).

    Returns:
        int: 0 for whole files, other containers and streams of unknown length.
    """
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        head = file.read(12)
        step = (
            _riff
            if head[:4] == b'RIFF' and head[8:12] == b'AVI '
            else _box
            if head[4:8] in (b'ftyp', b'moov', b'mdat', b'wide', b'free', b'skip')
            else _element
            if head[:4] == b'\x1a\x45\xdf\xa3'
            else None
        )
        start = 0
        while step is not None and start < size:
            file.seek(start)
            length = step(file.read(16))
            if length is None:  # runs to the end, or is no part of the container
                return 0
            start += length
    return max(start - size, 0) if step is not None else 0


def _riff(head: bytes) -> int | None:
    if head[:4] != b'RIFF' or len(head) < 8:
        return None
    (length,) = struct.unpack('<I', head[4:8])
    # A writer that was stopped has left 0 or the largest number there.
    return 8 + length if 0 < length < 2**32 - 1 else None


def _box(head: bytes) -> int | None:
    if len(head) < 8 or not head[4:8].isalnum():
        return None
    (length,) = struct.unpack('>I', head[:4])
    if length == 1 and len(head) == 16:
        (length,) = struct.unpack('>Q', head[8:])
    return length if length >= 8 else None


def _element(head: bytes) -> int | None:
    """Identifier and length are numbers whose leading zero bits count their bytes."""
    if len(head) < 2 or not head[0] & 0xF0:
        return None
    name = 9 - head[0].bit_length()
    if len(head) <= name or not head[name]:
        return None
    width = 9 - head[name].bit_length()
    number = int.from_bytes(head[name : name + width], 'big')
    largest = (1 << 7 * width) - 1
    length = number & largest
    return None if length == largest else name + width + length


def _by_path(original):
    def _get_video_reader(self, filename: str):
        name = filename if os.path.splitext(filename)[1] else f'{filename}.mp4'
        if self.io_backend not in ('disk', 'local') or not os.path.isfile(name):
            return original(self, filename)
        import decord

        missing = bytes_missing(name)
        if missing:
            warnings.warn(
                f'{name} is truncated: its last {missing} bytes are missing, the '
                'frames that are left are used',
                stacklevel=2,
            )
        return decord.VideoReader(name, num_threads=self.num_threads)

    return _get_video_reader


def _names_the_file(original):
    def transform(self, results: dict):
        name = results.get('filename')
        try:
            return original(self, results)
        except ImportError:
            raise
        except Exception as error:  # decoders raise whatever they like
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            if name is None:
                raise
            reason = lines[0] if lines else type(error).__name__
            raise OSError(
                f'the video {name} cannot be read by {type(self).__name__} ({reason}): '
                'copy or encode it again'
            ) from error

    return transform


def needed() -> bool:
    return is_installed('mmaction')


def apply(module) -> None:
    replace(module.DecordInit, '_get_video_reader', _by_path)
    for reader in _READERS:
        for step in ('Init', 'Decode'):
            replace(getattr(module, reader + step), 'transform', _names_the_file)


REPAIR = Repair(
    name='local_videos',
    symptom='a truncated AVI ends the process, and decoders name no file',
    remedy='decord opens local files by their path, and errors name the video',
    upstream='mmaction/datasets/transforms/loading.py',
    needed=needed,
    apply=apply,
    modules=('mmaction.datasets.transforms.loading',),
)
