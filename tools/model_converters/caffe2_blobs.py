# Copyright (c) The nl_plugins authors. All rights reserved.
"""Reading the pickled blobs of video-nonlocal-net without running what they say."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from conversion import check_weights  # noqa: E402

from nl_plugins.compat.plain_arrays import PlainUnpickler  # noqa: E402


def load_blobs(path: str | Path) -> dict[str, Tensor]:
    """The blobs of a ``.pkl`` file: ``{'blobs': {name: array}}`` or the inner dict.

    Raises:
        ValueError: Not a file, damaged, holding anything but arrays, or values that
            are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f'there is no file {path}')
    with path.open('rb') as file:
        try:
            content = PlainUnpickler(file, encoding='latin1').load()
        # A damaged pickle can end in any of Python's errors.
        except Exception as error:
            raise ValueError(f'{path} cannot be read: {error}') from error
    blobs = content.get('blobs', content) if isinstance(content, dict) else None
    if not isinstance(blobs, dict) or not blobs:
        raise ValueError(
            f"{path} holds no blobs: {{'blobs': {{name: array}}}} expected"
        )
    tensors = {}
    for name, blob in blobs.items():
        if not isinstance(name, str):
            raise ValueError(f'{path}: a blob is called {name!r}, not by a string')
        array = np.asarray(blob)
        if array.dtype.kind not in 'fiu':
            raise ValueError(f'{path}: blob {name!r} is no array of numbers')
        tensors[name] = torch.from_numpy(np.array(array))
    check_weights(tensors, path)
    return tensors
