# Copyright (c) The nl_plugins authors. All rights reserved.
"""The on-disk format of CIFAR-10: five pickled batches, a test batch, a meta.

The published files were pickled by Python 2: strings, array bytes and
dictionary keys are byte strings. Readers rely on it in two ways
(``encoding='latin1'`` and ``encoding='bytes'``), so the same opcodes are
written here.
"""

import os
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from files import naming

FOLDER = 'cifar-10-batches-py'
TRAIN_BATCHES = tuple(f'data_batch_{i}' for i in range(1, 6))
TEST_BATCH = 'test_batch'
META = 'batches.meta'
CLASSES = (
    'airplane',
    'automobile',
    'bird',
    'cat',
    'deer',
    'dog',
    'frog',
    'horse',
    'ship',
    'truck',
)


class _Python2Pickler(pickle._Pickler):
    """Protocol 2 with Python 2's opcodes for strings and numpy's old path."""

    dispatch = dict(pickle._Pickler.dispatch)

    def _save_byte_string(self, obj: str | bytes) -> None:
        data = obj.encode('ascii') if isinstance(obj, str) else obj
        if len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        else:
            self.write(pickle.BINSTRING + struct.pack('<i', len(data)) + data)
        self.memoize(obj)

    dispatch[str] = _save_byte_string
    dispatch[bytes] = _save_byte_string

    def save_global(self, obj: Any, name: Any = None) -> None:
        if getattr(obj, '__name__', '') == '_reconstruct':
            # numpy 2 calls the module numpy._core, which numpy 1 lacks; the
            # old name works in both.
            self.write(pickle.GLOBAL + b'numpy.core.multiarray\n_reconstruct\n')
            self.memoize(obj)
        else:
            super().save_global(obj, name)


def dump_python2(obj: Any, path: str | Path) -> None:
    """Write ``obj`` as Python 2 would have, completely or not at all.

    Args:
        obj (Any): Dicts, lists, ints, ASCII strings and numpy arrays.
        path (str | Path): File to write.
    """
    path = Path(path)
    temporary = path.with_name(path.name + '.tmp')
    try:
        with naming(path), open(temporary, 'wb') as file:
            _Python2Pickler(file, protocol=2).dump(obj)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def batch_dict(
    images: np.ndarray, labels: np.ndarray, batch_label: str, names: Sequence[str]
) -> dict[str, Any]:
    """One batch as it lies in the published files.

    Args:
        images (np.ndarray): (N, 3072) uint8, each row R, G, B planes of 32x32.
        labels (np.ndarray): (N,) integers 0..9.
        batch_label (str): e.g. 'training batch 1 of 5'.
        names (Sequence[str]): N file names.

    Returns:
        dict: Keys ``data``, ``labels``, ``batch_label``, ``filenames``.

    Raises:
        ValueError: Shapes, types or labels that CIFAR-10 cannot hold.
    """
    if images.ndim != 2 or images.shape[1] != 3072 or images.dtype != np.uint8:
        raise ValueError(
            'images must be uint8 of shape (N, 3072), but got '
            f'{images.dtype} of shape {images.shape}'
        )
    if not len(images) == len(labels) == len(names):
        raise ValueError(
            f'{len(images)} images, {len(labels)} labels and {len(names)} names '
            'do not belong together'
        )
    broken = [label for label in labels if int(label) != label]
    if broken:
        raise ValueError(
            f'labels are integers, but {len(broken)} are not, the first is {broken[0]}'
        )
    bad = [int(label) for label in labels if not 0 <= int(label) <= 9]
    if bad:
        raise ValueError(
            f'CIFAR-10 has the labels 0..9, but {len(bad)} labels lie outside, '
            f'the first is {bad[0]}'
        )
    return dict(
        batch_label=batch_label,
        labels=[int(label) for label in labels],
        data=np.ascontiguousarray(images),
        filenames=[str(name) for name in names],
    )


def write_cifar10(
    folder: str | Path,
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    classes: Sequence[str] = CLASSES,
) -> list[Path]:
    """Write the standard folder ``cifar-10-batches-py`` into ``folder``.

    The training images are dealt in order to five batches whose sizes differ
    by at most one.

    Args:
        folder (str | Path): Created when missing; becomes mmpretrain's
            ``data_root``.
        train_images (np.ndarray): (N, 3072) uint8.
        train_labels (np.ndarray): (N,).
        test_images (np.ndarray): (M, 3072) uint8.
        test_labels (np.ndarray): (M,).
        classes (Sequence[str]): Ten names. Defaults to CIFAR-10's.

    Returns:
        list[Path]: The seven files.
    """
    if len(train_images) < len(TRAIN_BATCHES):
        raise ValueError(
            f'five training batches need at least 5 images, got {len(train_images)}'
        )
    target = Path(folder) / FOLDER
    contents = []
    parts = zip(
        np.array_split(train_images, len(TRAIN_BATCHES)),
        np.array_split(train_labels, len(TRAIN_BATCHES)),
    )
    first = 0
    for number, (name, (images, labels)) in enumerate(zip(TRAIN_BATCHES, parts), 1):
        names = [f'train_{first + i:06d}.png' for i in range(len(images))]
        first += len(images)
        label = f'training batch {number} of {len(TRAIN_BATCHES)}'
        contents.append((name, batch_dict(images, labels, label, names)))
    names = [f'test_{i:06d}.png' for i in range(len(test_images))]
    contents.append(
        (
            TEST_BATCH,
            batch_dict(test_images, test_labels, 'testing batch 1 of 1', names),
        )
    )
    meta = dict(
        num_cases_per_batch=len(contents[0][1]['labels']),
        label_names=list(classes),
        num_vis=3072,
    )
    contents.append((META, meta))
    target.mkdir(parents=True, exist_ok=True)
    for name, content in contents:
        dump_python2(content, target / name)
    return [target / name for name, _ in contents]
