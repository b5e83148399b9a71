# Copyright (c) The nl_plugins authors. All rights reserved.
"""Draw the picture of docs/en/benchmarks.md from the numbers of its table.

python tools/visualization/benchmark_picture.py
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'analysis_tools'))

from benchmark import plot  # noqa: E402
from full_resolution import draw  # noqa: E402

PAGES = ROOT / 'docs' / 'en'
MIB = 2**20
# Of the table of ratios; its ratio columns all have the same head.
HEAD = (
    'case | shape | forward, ms (dense) | ratio | step, ms (dense) | ratio | memory, '
    'MiB (dense) | ratio | step memory, MiB (dense) | ratio | over limit'
)


def read_rows(page: Path) -> list[SimpleNamespace]:
    """Case, shape and ratios of each row between the marks of the page.

    Raises:
        ValueError: If the page has no such table.
    """
    text = page.read_text(encoding='utf-8')
    found = re.search(r'<!-- results -->\n(.*?)<!-- end results -->', text, re.DOTALL)
    lines = found[1].strip().splitlines() if found else ['']
    if lines[0].strip('| ') != HEAD:
        raise ValueError(f'{page} has no table "{HEAD}" between its results marks')
    rows = []
    for line in lines[2:]:
        cells = [cell.strip() for cell in line.strip('| ').split(' | ')]
        forward, step, step_memory = (
            None if cells[i] == '–' else float(cells[i].rstrip('x')) for i in (3, 5, 9)
        )
        rows.append(
            SimpleNamespace(
                case=cells[0],
                shape=cells[1].split('x'),
                forward_ratio=forward,
                step_ratio=step,
                step_memory_ratio=step_memory,
            )
        )
    return rows


def read_memory(page: Path) -> list[dict]:
    """Peak memory of each network, size and way, from the table of whole images.

    Raises:
        ValueError: If the page has no such table.
    """
    lines = page.read_text(encoding='utf-8').splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith('| network | 1024x')]
    if len(heads) != 1:
        raise ValueError(f'{page} has no table of networks and sizes of images')
    head = [cell.strip() for cell in lines[heads[0]].strip('| ').split(' | ')]
    sizes = [head[column].partition(',')[0] for column in (1, 1, 3, 3)]
    parts = ['dense-model', 'model'] * 2
    rows = []
    for line in lines[heads[0] + 2 :]:
        if not line.startswith('|'):
            break
        name, *cells = (cell.strip() for cell in line.strip('| ').split(' | '))
        for cell, size, part in zip(cells, sizes, parts, strict=True):
            number = re.match(r'([\d,]+) MiB', cell)
            if number:
                size_in_bytes = int(number[1].replace(',', '')) * MIB
                rows.append(
                    dict(config=name, part=part, image=size, bytes=size_in_bytes)
                )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--pages', type=Path, default=PAGES, help='folder of the pages (%(default)s)'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=PAGES / '_static',
        help='folder of the pictures (%(default)s)',
    )
    args = parser.parse_args(argv)
    try:
        rows = read_rows(args.pages / 'benchmarks.md')
        memory = read_memory(args.pages / 'accelerate.md')
        args.out.mkdir(parents=True, exist_ok=True)
        plot(rows, args.out / 'benchmark.png')
        draw(memory, args.out / 'whole_images.png')
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'{args.out}: benchmark.png, whole_images.png')
    return 0


if __name__ == '__main__':
    sys.exit(main())
