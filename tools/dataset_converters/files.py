# Copyright (c) The nl_plugins authors. All rights reserved.
"""Files whose errors, such as a wrong encoding or a full disk, name them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError that knows no file name ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def read_text(path: Path) -> str:
    """Text in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: Another encoding, or NUL bytes.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{path} is not UTF-8 ({error}): convert it, for example with iconv -t '
            'UTF-8'
        ) from error
    if '\0' in text:
        raise ValueError(f'{path} holds NUL bytes, so it is no text in UTF-8')
    return text


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and flush it, because some file systems only then are full."""
    with naming(path), open(path, 'wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, content: str) -> None:
    """Write a text in UTF-8."""
    with naming(path):
        path.write_text(content, encoding='utf-8')


def write_picture(path: Path, picture: np.ndarray, options: Sequence[int] = ()) -> None:
    """Write a picture in the format of the suffix.

    Args:
        path (Path): File to write.
        picture (np.ndarray): (H, W) or (H, W, 3) in BGR.
        options (Sequence[int]): Parameters of ``cv2.imencode``.

    Raises:
        OSError: It cannot be encoded, or not written, which ``cv2.imwrite`` does not
            tell apart.
    """
    done, content = cv2.imencode(path.suffix, picture, list(options))
    if not done:
        raise OSError(f'OpenCV cannot encode {path}')
    with naming(path):
        path.write_bytes(content.tobytes())


def write_video(
    path: Path, frames: Sequence[np.ndarray], fps: float, codec: str = 'mp4v'
) -> None:
    """Write frames (H, W, 3) in BGR as a video.

    Raises:
        OSError: The file cannot be written, such as on a full disk, of which OpenCV
            says nothing, or there is no encoder.
    """
    height, width = frames[0].shape[:2]
    fourcc = cv2.VideoWriter_fourcc(*codec)
    # A path that cannot be written is told apart from a missing encoder.
    write_bytes(path, b'')
    writer = cv2.VideoWriter(str(path), fourcc, fps, (width, height))
    opened = writer.isOpened()
    for frame in frames if opened else ():
        writer.write(frame)
    writer.release()
    written = cv2.VideoCapture(str(path)) if opened else None
    count = 0
    while written is not None and written.grab():
        count += 1
    if count == len(frames):
        return
    # What the frames may have needed: the error of a full disk, with its number.
    write_bytes(path, bytes(max(65536, sum(frame.nbytes for frame in frames) // 4)))
    path.unlink()
    raise OSError(
        f'OpenCV cannot write {path}: '
        + (
            f'only {count} of {len(frames)} frames can be read back'
            if opened
            else f'this build has no encoder for {codec}; install '
            'opencv-python-headless from PyPI'
        )
    )
