# Copyright (c) The nl_plugins authors. All rights reserved.
"""Write pictures and videos; OpenCV's own writers keep the reason of a failure back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_picture(path: Path, image: np.ndarray, quality: int | None = None) -> None:
    """Write ``image`` in the format of the suffix, a JPEG of the given quality.

    Raises:
        OSError: Naming the file and the reason.
    """
    options = [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, encoded = cv2.imencode(path.suffix, image, options)
    write_bytes(path, encoded.tobytes())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file; a failed write names it, as a failed open does."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_mp4(path: Path, frames: list[np.ndarray], fps: float) -> None:
    """Write frames (H, W, 3) as an MPEG-4 video.

    Raises:
        OSError: Naming the file and the reason.
    """
    height, width = frames[0].shape[:2]
    codec = cv2.VideoWriter_fourcc(*'mp4v')
    writer = cv2.VideoWriter(str(path), codec, fps, (width, height))
    opened = writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    if opened and cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == len(
        frames
    ):
        return
    write_bytes(path, bytes(sum(frame.nbytes for frame in frames)))  # says why not
    path.unlink()
    raise OSError(
        f'OpenCV cannot write {path}: this build has no MPEG-4 encoder; '
        'install opencv-python-headless from PyPI'
    )
