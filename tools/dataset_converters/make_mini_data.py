# Copyright (c) The nl_plugins authors. All rights reserved.
"""Make small synthetic data sets in the on-disk formats of five real ones.

They are for trying out, testing and debugging: a full training run takes
minutes on two CPU cores. Results on them say nothing about the real sets.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from files import naming, write_text  # noqa: E402
from mini_data import cifar10, cityscapes, coco, videos  # noqa: E402

VERSION = 1
"""Raised whenever the pictures drawn from one seed change."""
STAMP = 'mini_data.json'


class MiniSet(NamedTuple):
    """How one set is written and how large it is unless told otherwise."""

    write: Callable
    num_train: int
    num_test: int


SETS: dict[str, MiniSet] = dict(
    cifar10=MiniSet(cifar10.write, 2000, 500),
    cityscapes=MiniSet(cityscapes.write, 120, 40),
    kinetics400=MiniSet(videos.write_kinetics400, 320, 80),
    sthv1=MiniSet(videos.write_sthv1, 320, 80),
    coco=MiniSet(coco.write, 400, 100),
)


class Progress:
    """One line that counts up; silent when the output is not a terminal."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self.start = time.time()

    def advance(self) -> None:
        self.done += 1
        if sys.stdout.isatty():
            print(f'\r{self.name}: {self.done}/{self.total}', end='', flush=True)

    def finish(self, where: Path) -> None:
        lead = '\r' if sys.stdout.isatty() else ''
        seconds = time.time() - self.start
        print(f'{lead}{self.name}: {self.done} samples in {where} ({seconds:.1f} s)')


def read_stamp(folder: Path) -> dict | None:
    """What made ``folder``, None when no mini data lies there.

    Raises:
        ValueError: Something that this tool did not make lies there.
    """
    if not folder.exists():
        return None
    try:
        return json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        raise ValueError(
            f'{folder} exists and was not made by this tool (no readable {STAMP} '
            'in it); move it away or choose another --out'
        ) from None


def make(out: Path, name: str, seed: int, num_train: int, num_test: int) -> bool:
    """Make one set below ``out``; False when it was already there.

    The set is written to a temporary folder that replaces an older one as a
    whole, so an interrupted run never leaves half a set.
    """
    folder = out / name
    stamp = dict(version=VERSION, seed=seed, num_train=num_train, num_test=num_test)
    if read_stamp(folder) == stamp:
        print(f'{name}: already in {folder}')
        return False
    temporary = out / f'.{name}.{os.getpid()}.tmp'
    progress = Progress(name, num_train + num_test)
    try:
        temporary.mkdir(parents=True)
        with naming(temporary):
            SETS[name].write(temporary, seed, num_train, num_test, progress.advance)
        write_text(temporary / STAMP, json.dumps(stamp) + '\n')
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    progress.finish(folder)
    return True


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--out', type=Path, default=Path('data/mini'), help='folder (%(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='(%(default)s)')
    parser.add_argument(
        '--only', nargs='+', choices=sorted(SETS), default=list(SETS), metavar='SET'
    )
    for name, mini in SETS.items():
        parser.add_argument(
            f'--{name}',
            nargs=2,
            type=int,
            default=(mini.num_train, mini.num_test),
            metavar=('TRAIN', 'TEST'),
            help=f'samples of {name} ({mini.num_train} {mini.num_test})',
        )
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f'--seed must not be negative, but got {args.seed}')
    for name in args.only:
        train, test = getattr(args, name)
        if train < 5 or test < 1:
            parser.error(
                f'--{name} needs at least 5 training samples and 1 test sample, '
                f'but got {train} {test}'
            )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    for name in args.only:
        try:
            make(args.out, name, args.seed, *getattr(args, name))
        except (OSError, ValueError) as error:
            print(f'error: {error}', file=sys.stderr)
            return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
