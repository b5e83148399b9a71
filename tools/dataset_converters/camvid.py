# Copyright (c) The nl_plugins authors. All rights reserved.
"""Unpack CamVid (11 classes, SegNet's split) and check every pair.

The archive holds ``camvid/images/{train,val,test}/NAME.jpg`` and
``camvid/labels/{train,val,test}/NAME.png`` with the values 0..10 (sky, building,
pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist) and 11 for
unlabelled pixels. The result is OUT/images and OUT/labels.
"""

import argparse
import os
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))

from files import naming  # noqa: E402

SPLITS = ('train', 'val', 'test')
SUFFIXES = dict(images='.jpg', labels='.png')
MAX_LABEL = 11


def _place(name: str) -> PurePosixPath:
    """Where a member goes below OUT.

    Raises:
        ValueError: Anything but ``camvid/<kind>/<split>/<file>``: absolute
            paths, ``..`` and strange folders never reach the disk.
    """
    parts = PurePosixPath(name).parts
    if (
        len(parts) != 4
        or parts[0] != 'camvid'
        or parts[1] not in SUFFIXES
        or parts[2] not in SPLITS
        or parts[3] in ('.', '..')
        or PurePosixPath(parts[3]).suffix != SUFFIXES[parts[1]]
        or '\\' in name
    ):
        raise ValueError(
            f'unexpected member {name!r}; a CamVid archive holds only '
            'camvid/images/SPLIT/NAME.jpg and camvid/labels/SPLIT/NAME.png'
        )
    return PurePosixPath(*parts[1:])


def _extract(archive: Path, folder: Path) -> int:
    """Copy the regular files out of ``archive``; returns how many."""
    count = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isdir():
                    continue
                place = _place(member.name)
                if not member.isfile():
                    raise ValueError(f'member {member.name!r} is a link or a device')
                target = folder / place
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                with naming(target), open(target, 'wb') as file:
                    shutil.copyfileobj(source, file)
                count += 1
                if sys.stdout.isatty() and count % 50 == 0:
                    print(f'\r{count} files', end='', flush=True)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f'{archive} is truncated or no tar archive ({error}); copy it again'
        ) from error
    if sys.stdout.isatty():
        print('\r', end='')
    return count


def check(folder: Path) -> dict[str, int]:
    """Check that every picture has a label map of its size and range.

    Returns:
        dict: Number of pairs of each split.

    Raises:
        ValueError: A missing, unreadable, misfitting or foreign file.
    """
    counts = {}
    for split in SPLITS:
        images = {p.stem: p for p in (folder / 'images' / split).glob('*.jpg')}
        labels = {p.stem: p for p in (folder / 'labels' / split).glob('*.png')}
        lonely = sorted(set(images) ^ set(labels))
        if lonely or not images:
            what = f'no partner for {lonely[:3]}' if lonely else 'no pictures'
            raise ValueError(f'{split}: {what} in {len(images)} pictures')
        for stem, path in images.items():
            for file in (path, labels[stem]):
                try:  # OpenCV gives a truncated picture a grey end
                    with Image.open(file) as picture:
                        picture.load()
                except (OSError, ValueError, SyntaxError) as error:
                    raise ValueError(
                        f'{split}/{file.name} cannot be read as a picture ({error})'
                    ) from error
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            label = cv2.imread(str(labels[stem]), cv2.IMREAD_UNCHANGED)
            if label.ndim != 2 or image.shape[:2] != label.shape:
                raise ValueError(
                    f'{split}/{stem}: the picture is {image.shape}, '
                    f'the label map {label.shape}'
                )
            if label.max() > MAX_LABEL:
                raise ValueError(
                    f'{split}/{stem}: label {label.max()} lies above {MAX_LABEL}; '
                    f'values are {np.unique(label).tolist()}'
                )
        counts[split] = len(images)
    return counts


def convert(archive: Path, out: Path, force: bool = False) -> dict[str, int]:
    """Unpack ``archive`` to ``out``, completely or not at all."""
    if not archive.is_file():
        raise FileNotFoundError(f'{archive} does not exist or is not a file')
    if out.exists() and not force:
        raise ValueError(f'{out} exists; give --force to replace it')
    if out.exists() and set(os.listdir(out)) - set(SUFFIXES):
        raise ValueError(
            f'{out} holds more than images and labels, so it is not replaced; '
            'choose another --out'
        )
    temporary = out.with_name(f'.{out.name}.{os.getpid()}.tmp')
    try:
        temporary.mkdir(parents=True)
        _extract(archive, temporary)
        counts = check(temporary)
        if out.exists():
            shutil.rmtree(out)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('archive', type=Path, help='camvid.tar')
    parser.add_argument(
        '--out', type=Path, default=Path('data/camvid'), help='(%(default)s)'
    )
    parser.add_argument('--force', action='store_true', help='replace an older result')
    args = parser.parse_args(argv)
    try:
        counts = convert(args.archive, args.out, args.force)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    pairs = ', '.join(f'{count} {split}' for split, count in counts.items())
    print(f'{pairs} pairs in {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
