# Copyright (c) The nl_plugins authors. All rights reserved.
"""What does a video network know about the order of frames?

    python tools/analysis_tools/temporal_order.py CONFIG CHECKPOINT --json order.json

The metric of the config's test set with the frames of every clip in order, reversed,
shuffled, and with one frame repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parent))
from trained_model import (  # noqa: E402
    loaded,
    metric_table,
    numbers,
    parser_of,
    write_json,
)

from nl_plugins.analysis import frame_order  # noqa: E402
from nl_plugins.analysis.order import FrameOrder  # noqa: E402


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        '--num-frames',
        type=int,
        help='of a clip of stacked frames, if not num_segments',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the permutations')
    args = parser.parse_args(argv)
    rows = {}
    with loaded(args) as runner:
        try:
            for how in get_args(FrameOrder):
                with frame_order(runner.model, how, args.num_frames, args.seed):
                    rows[how] = numbers(runner.test())
        except ValueError as error:
            raise SystemExit(f'temporal_order.py: {error}') from None
    print(metric_table(rows, 'frames'))
    write_json(args.json, rows)


if __name__ == '__main__':
    main()
