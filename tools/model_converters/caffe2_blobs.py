# Copyright (c) The nl_plugins authors. All rights reserved.
"""Reading the pickled blobs of video-nonlocal-net without running what they say."""

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

try:
    from numpy._core import multiarray
except ImportError:  # numpy below 1.26
    from numpy.core import multiarray

# The only names that an array in a pickle needs.
_ALLOWED = {
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
    ('numpy.core.multiarray', '_reconstruct'): multiarray._reconstruct,
    ('numpy._core.multiarray', '_reconstruct'): multiarray._reconstruct,
    ('numpy.core.multiarray', 'scalar'): multiarray.scalar,
    ('numpy._core.multiarray', 'scalar'): multiarray.scalar,
}


def _encode(text: str, encoding: str = 'latin1') -> bytes:
    # How Python 2 compatible pickles spell bytes.
    return text.encode('latin1')


_ALLOWED['_codecs', 'encode'] = _encode


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f'it holds {module}.{name}, which is not loaded because it could run '
                'code; blobs are arrays and nothing else'
            ) from None


def load_blobs(path: str | Path) -> dict[str, Tensor]:
    """The blobs of a ``.pkl`` file: ``{'blobs': {name: array}}`` or the inner dict.

    Raises:
        ValueError: Not a file, damaged, or holding anything but arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f'there is no file {path}')
    with path.open('rb') as file:
        try:
            content = _ArrayUnpickler(file, encoding='latin1').load()
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
    return tensors
