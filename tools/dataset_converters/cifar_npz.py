# Copyright (c) The nl_plugins authors. All rights reserved.
"""Turn CIFAR-10 in an .npz file into the standard pickled folder.

Two layouts are read. *Raw*: ``train_data`` (N, 3072) uint8 in planes of R, G, B
with ``train_labels`` (N,). *JPEG*: ``train_jpeg`` (bytes of all files in a row),
``train_offsets`` (N + 1,) and ``train_labels``. Both hold the same arrays for
``test_``. The training images are shuffled with ``--seed`` unless
``--keep-order`` is given.

The result is ``OUT/cifar-10-batches-py``; OUT is the ``data_root`` of a config.
"""

import argparse
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cifar_format import FOLDER, write_cifar10  # noqa: E402


def _decode(name: str, data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """JPEG files in one byte string -> (N, 3072) uint8, planes of R, G, B."""
    steps = np.diff(offsets.astype(np.int64))
    if len(offsets) < 2 or offsets[0] != 0 or (steps <= 0).any():
        raise ValueError(f'{name}_offsets must rise from 0, so the file is damaged')
    if offsets[-1] != len(data):
        raise ValueError(
            f'{name}_jpeg has {len(data)} bytes, but {name}_offsets end at '
            f'{offsets[-1]}: the file is truncated'
        )
    images = np.empty((len(steps), 3072), dtype=np.uint8)
    for i in range(len(steps)):
        encoded = data[offsets[i] : offsets[i + 1]]
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        if image is None or image.shape != (32, 32, 3):
            raise ValueError(f'{name} image {i} is not a 32x32 JPEG picture')
        images[i] = image[..., ::-1].transpose(2, 0, 1).reshape(-1)
        if sys.stdout.isatty() and i % 1000 == 999:
            print(f'\r{name}: {i + 1}/{len(steps)}', end='', flush=True)
    if sys.stdout.isatty():
        print('\r', end='')
    return images


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read either layout.

    Returns:
        tuple: train images (N, 3072) uint8, train labels (N,), test images
        (M, 3072), test labels (M,).

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not an .npz file, truncated, or an array is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist or is not a file')
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f'{path} is truncated or no .npz file ({error}); copy it again'
        ) from error
    result = []
    for split in ('train', 'test'):
        layouts = (('data', 'labels'), ('jpeg', 'offsets', 'labels'))
        layout = next(
            (keys for keys in layouts if all(f'{split}_{k}' in arrays for k in keys)),
            None,
        )
        if layout is None:
            raise ValueError(
                f'{path} needs {split}_data and {split}_labels, or {split}_jpeg, '
                f'{split}_offsets and {split}_labels, but holds {sorted(arrays)}'
            )
        if layout[0] == 'data':
            images = arrays[f'{split}_data']
        else:
            images = _decode(split, arrays[f'{split}_jpeg'], arrays[f'{split}_offsets'])
        result += [images, arrays[f'{split}_labels']]
    return tuple(result)


def convert(
    source: Path,
    out: Path,
    seed: int = 0,
    keep_order: bool = False,
    force: bool = False,
) -> tuple[int, int]:
    """Write ``out/cifar-10-batches-py``, completely or not at all.

    Returns:
        tuple: Number of training and of test images.
    """
    target = out / FOLDER
    if target.exists() and not force:
        raise ValueError(f'{target} exists; give --force to replace it')
    images, labels, test_images, test_labels = read_npz(source)
    if not keep_order:
        order = np.random.default_rng(seed).permutation(len(images))
        if len(labels) == len(images):
            images, labels = images[order], labels[order]
    temporary = out / f'.cifar10.{os.getpid()}.tmp'
    try:
        write_cifar10(temporary, images, labels, test_images, test_labels)
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary / FOLDER, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(images), len(test_images)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('npz', type=Path, help='the .npz file')
    parser.add_argument('--out', type=Path, required=True, help='the data_root to make')
    parser.add_argument('--seed', type=int, default=0, help='of the shuffle (0)')
    parser.add_argument('--keep-order', action='store_true', help='do not shuffle')
    parser.add_argument('--force', action='store_true', help='replace an older result')
    args = parser.parse_args(argv)
    try:
        train, test = convert(
            args.npz, args.out, args.seed, args.keep_order, args.force
        )
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'{train} training and {test} test images in {args.out / FOLDER}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
