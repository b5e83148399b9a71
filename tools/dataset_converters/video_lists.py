# Copyright (c) The nl_plugins authors. All rights reserved.
"""Write mmaction2's list files from those of other repositories.

space, comma  ``folder frames label`` rows of TSM and RNL, one video a row
json          3D-ResNets' ``{"labels": [...], "database": {video: {...}}}``
ucf101        trainlist01.txt or testlist01.txt; --labels classInd.txt
hmdb51        the folder of ``<class>_test_split1.txt`` files

Writes ``folder frames label`` rows for RawframeDataset or, with --videos,
``file label`` rows for VideoDataset.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from files import naming, read_text  # noqa: E402

SEPARATORS = dict(space=None, comma=',')
SUBSETS = ('training', 'validation', 'testing')
# Column of HMDB51's split files; 0 belongs to neither.
HMDB51_SUBSETS = dict(training='1', validation='2', testing='2')


class Row(NamedTuple):
    """One video: path below the data root, frames (None if unlisted), label."""

    name: str
    frames: int | None
    label: int


def labels_of(names: Sequence[str], where: Path) -> list[str]:
    """The names without empty ones, which would shift every later index."""
    kept = [name.strip() for name in names if name.strip()]
    if len(kept) < len(names):
        warnings.warn(
            f'{where}: {len(names) - len(kept)} of {len(names)} label names are '
            'empty and were skipped',
            stacklevel=2,
        )
    if len(set(kept)) < len(kept):
        raise ValueError(f'{where}: a label name appears twice')
    return kept


def read_labels(path: Path) -> list[str]:
    """One label a line, with or without an index before it (``1 Archery``)."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    names = [line.split(maxsplit=1) for line in lines]
    numbered = all(len(parts) == 2 and parts[0].isdigit() for parts in names if parts)
    if numbered:
        lines = [parts[1] if parts else '' for parts in names]
    return labels_of(lines, path)


def read_rows(path: Path, separator: str | None) -> Iterator[Row]:
    """Rows of ``folder frames label``; a folder may contain the separator."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.rsplit(separator, 2)]
        try:
            name, frames, label = parts[0], int(parts[1]), int(parts[2])
        except (ValueError, IndexError):
            raise ValueError(
                f'{path}, line {number}: expected "folder{separator or " "}frames'
                f'{separator or " "}label", but got {line!r}'
            ) from None
        yield Row(name, frames, label)


def read_json(path: Path, subset: str, label_folders: bool) -> Iterator[Row]:
    """Videos of one subset of a 3D-ResNets annotation file, sorted by name."""
    content = json.loads(read_text(path))
    try:
        names, database = content['labels'], content['database']
    except (TypeError, KeyError):
        raise ValueError(f'{path} has no "labels" and "database"') from None
    index = {name: i for i, name in enumerate(labels_of(names, path))}
    for video, entry in sorted(database.items()):
        if entry['subset'] != subset:
            continue
        label = entry['annotations']['label']
        if label not in index:
            raise ValueError(f'{path}: {video} has the unknown label {label!r}')
        folder = f'{label}/{video}' if label_folders else video
        yield Row(folder, None, index[label])


def read_ucf101(path: Path, labels: Sequence[str]) -> Iterator[Row]:
    """``Archery/v_Archery_g01_c01.avi [3]``; the folder is the class."""
    index = {name: i for i, name in enumerate(labels)}
    for line in read_text(path).splitlines():
        if not line.strip():
            continue
        name = line.split()[0]
        label = name.split('/')[0]
        if label not in index:
            raise ValueError(f'{path}: {name} is of the unknown class {label!r}')
        yield Row(os.path.splitext(name)[0], None, index[label])


def read_hmdb51(folder: Path, split: int, subset: str) -> Iterator[Row]:
    """``video.avi 0|1|2`` in one file a class; classes in alphabetical order."""
    end = f'_test_split{split}.txt'
    files = sorted(folder.glob(f'*{end}'))
    if not files:
        raise ValueError(f'{folder} has no *{end}')
    for label, path in enumerate(files):
        action = path.name[: -len(end)]
        for line in read_text(path).splitlines():
            parts = line.split()
            if parts and parts[-1] == HMDB51_SUBSETS[subset]:
                video = os.path.splitext(' '.join(parts[:-1]))[0]
                yield Row(f'{action}/{video}', None, label)


def count_frames(folder: Path) -> int | None:
    """Content of the file ``n_frames`` or the number of JPEGs; None if missing."""
    counted = folder / 'n_frames'
    if counted.is_file():
        return int(counted.read_text())
    if not folder.is_dir():
        return None
    names = os.listdir(folder)
    return sum(name.lower().endswith(('.jpg', '.jpeg')) for name in names)


def relabel(
    rows: Sequence[Row], old: Sequence[str], new: Sequence[str], where: Path
) -> list[Row]:
    """Rows whose labels count in another order of the same names."""
    if sorted(old) != sorted(new):
        differing = sorted(set(old) ^ set(new))[:3]
        raise ValueError(f'{where}: other names than before, such as {differing}')
    for row in rows:
        if not 0 <= row.label < len(old):
            raise ValueError(
                f'{row.name}: label {row.label} is not one of {len(old)} names'
            )
    return [row._replace(label=new.index(old[row.label])) for row in rows]


def lines_of(
    rows: Sequence[Row], frames_root: Path | None, videos: str | None, missing: str
) -> tuple[list[str], int]:
    """Lines of the new list, and how many missing videos were left out."""
    lines, skipped = [], 0
    for row in rows:
        if any(c.isspace() for c in row.name):
            raise ValueError(
                f'{row.name!r} contains white space, which separates the columns of '
                'the list: rename the video'
            )
        if videos is not None:
            lines.append(f'{row.name}{videos} {row.label}')
            continue
        frames = row.frames
        if frames_root is not None:
            frames = count_frames(frames_root / row.name)
        if not frames:
            problem = f'{(frames_root or Path()) / row.name} has no frames'
            if frames_root is None:
                raise ValueError(
                    f'the list does not say how many frames {row.name} has: add '
                    '--frames-root, or --videos for a list of video files'
                )
            if missing == 'error':
                raise ValueError(f'{problem}; --missing skip leaves such videos out')
            print(f'skipped: {problem}', file=sys.stderr)
            skipped += 1
            continue
        lines.append(f'{row.name} {frames} {row.label}')
    return lines, skipped


def convert(args: argparse.Namespace) -> tuple[int, int]:
    """Read, relabel, write. -> (rows written, videos left out)"""
    labels = read_labels(args.labels) if args.labels else None
    if args.format in SEPARATORS:
        rows = list(read_rows(args.input, SEPARATORS[args.format]))
    elif args.format == 'json':
        rows = list(read_json(args.input, args.subset, not args.no_label_folders))
        if labels is None:
            content = json.loads(read_text(args.input))
            with warnings.catch_warnings():  # said by read_json
                warnings.simplefilter('ignore')
                labels = labels_of(content['labels'], args.input)
    elif args.format == 'ucf101':
        if labels is None:
            raise ValueError('ucf101 lists need --labels classInd.txt')
        rows = list(read_ucf101(args.input, labels))
    else:
        rows = list(read_hmdb51(args.input, args.split, args.subset))
    if args.relabel:
        if labels is None:
            raise ValueError('--relabel needs --labels, the names in the old order')
        rows = relabel(rows, labels, read_labels(args.relabel), args.relabel)
    if not rows:
        raise ValueError(f'{args.input} has no videos of subset {args.subset!r}')
    lines, skipped = lines_of(rows, args.frames_root, args.videos, args.missing)
    if not lines:
        raise ValueError(f'{args.input}: no video is left, all miss their frames')
    args.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.output.with_name(args.output.name + '.tmp')
    try:
        with naming(args.output):
            temporary.write_text('\n'.join(lines) + '\n', encoding='utf-8')
        os.replace(temporary, args.output)
    finally:
        temporary.unlink(missing_ok=True)
    return len(lines), skipped


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('input', type=Path, help='list file; a folder for hmdb51')
    parser.add_argument('output', type=Path, help='list file to write')
    parser.add_argument(
        '--format', required=True, choices=[*SEPARATORS, 'json', 'ucf101', 'hmdb51']
    )
    parser.add_argument(
        '--subset', default='training', choices=SUBSETS, help='for json and hmdb51'
    )
    parser.add_argument('--split', type=int, default=1, help='for hmdb51')
    parser.add_argument(
        '--no-label-folders',
        action='store_true',
        help='json: videos lie in the root, not in a folder of their label',
    )
    parser.add_argument('--labels', type=Path, help='file of label names, one a line')
    parser.add_argument(
        '--relabel', type=Path, help='the same names in the order to count in'
    )
    parser.add_argument(
        '--frames-root', type=Path, help='count the frames of each folder below it'
    )
    parser.add_argument(
        '--videos', metavar='.EXT', help='write "name.EXT label" rows for VideoDataset'
    )
    parser.add_argument(
        '--missing', default='error', choices=['error', 'skip'], help='without frames'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        written, skipped = convert(args)
    except (OSError, ValueError) as error:
        sys.exit(f'video_lists: {error}')
    left_out = f', left out {skipped}' if skipped else ''
    print(f'{args.output}: {written} videos{left_out}')


if __name__ == '__main__':
    main()
