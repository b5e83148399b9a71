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

PAGE = ROOT / 'docs' / 'en' / 'benchmarks.md'
# Of the table; its ratio columns all have the same head.
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


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--page', type=Path, default=PAGE, help='(%(default)s)')
    parser.add_argument(
        '--out',
        type=Path,
        default=PAGE.parent / '_static' / 'benchmark.png',
        help='file to write (%(default)s)',
    )
    args = parser.parse_args(argv)
    try:
        plot(read_rows(args.page), args.out)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'{args.out}: {args.out.stat().st_size} bytes')
    return 0


if __name__ == '__main__':
    sys.exit(main())
