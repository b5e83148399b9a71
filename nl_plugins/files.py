# Copyright (c) The nl_plugins authors. All rights reserved.
"""Files that are whole: written at once or not at all, read only if all is there."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from PIL import Image

# What is being written is hidden, under a name that nobody else gives.
_UNFINISHED = '.{}.unfinished'
# How a whole file ends, and how many bytes may follow.
_ENDS = {'PNG': b'IEND', 'JPEG': b'\xff\xd9'}
_TAIL = 64


@contextmanager
def open_whole(path: str | os.PathLike, mode: str = 'wb'):
    """Open a file for writing that appears under its name once it is complete.

    Raises:
        OSError: It cannot be written, with its name; what was there before stays.
    """
    path = Path(path)
    beside = path.with_name(_UNFINISHED.format(path.name))
    try:
        encoding = None if 'b' in mode else 'utf-8'
        with open(beside, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if not isinstance(error, OSError) or error.errno is None:
            raise
        # The error of a write, such as a full disk, does not name the file.
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    _flush_names(path.parent)


def _flush_names(folder: Path) -> None:
    """Let the new name survive a power cut, where the system can promise it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # nor do some network file systems flush them
        pass
    finally:
        os.close(descriptor)


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Remove what a killed run left half written in ``folder``."""
    for path in Path(folder).glob(_UNFINISHED.format('*')):
        path.unlink(missing_ok=True)


def write_picture(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write an RGB picture (H, W, 3), uint8, in the format of the suffix, whole.

    Raises:
        OSError: It cannot be written, with its name.
        ValueError: OpenCV knows no format of that suffix.
    """
    import cv2

    try:
        _, encoded = cv2.imencode(Path(path).suffix, picture[..., ::-1])
    except cv2.error:
        raise ValueError(
            f'{path} has no suffix of a format of pictures: take .png or .jpg'
        ) from None
    with open_whole(path) as file:
        file.write(encoded.tobytes())


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text in UTF-8, whole.

    Raises:
        OSError: It cannot be written, with its name.
    """
    with open_whole(path, 'w') as file:
        file.write(text)


def save_figure(path: str | os.PathLike, figure: Figure, **options: Any) -> None:
    """Write a figure of matplotlib in the format of the suffix, whole, and close it.

    Args:
        path (str | os.PathLike): Where to.
        figure (Figure): What.
        options: Of ``Figure.savefig``.

    Raises:
        OSError: It cannot be written, with its name.
    """
    import matplotlib.pyplot as plt

    try:
        with open_whole(path) as file:
            figure.savefig(file, format=Path(path).suffix[1:], **options)
    finally:
        plt.close(figure)


class UnreadableError(ValueError):
    """A picture that cannot be decoded; the message is the reason."""


def open_picture(file: BinaryIO, decode: bool = True) -> Image.Image:
    """A picture that is all there.

    Args:
        file (BinaryIO): Opened for reading, and open as long as the picture is used.
        decode (bool): False reads the header and the last bytes, and decodes only a
            file that does not end as its format does. Defaults to True.

    Raises:
        UnreadableError: If it is no picture, or truncated or damaged.
    """
    from PIL import Image

    try:
        image = Image.open(file)
        if decode or not _has_end(file, image.format):
            image.load()
    except Image.UnidentifiedImageError:
        raise UnreadableError('no known format of pictures') from None
    except Exception as error:  # decoders raise whatever they like
        raise UnreadableError(str(error)) from error
    return image


def _has_end(file: BinaryIO, kind: str | None) -> bool:
    if kind not in _ENDS:
        return False
    place = file.tell()
    file.seek(max(0, file.seek(0, 2) - _TAIL))
    found = _ENDS[kind] in file.read()
    file.seek(place)
    return found
