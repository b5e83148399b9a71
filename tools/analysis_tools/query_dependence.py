# Copyright (c) The nl_plugins authors. All rights reserved.
"""Is the attention the same for every query, and does the task notice?

    python tools/analysis_tools/query_dependence.py CONFIG CHECKPOINT
    python tools/analysis_tools/query_dependence.py CONFIG CHECKPOINT --ablate \\
        --json dependence.json --picture dependence.png

For every block: how much rows of its affinity differ from their mean row, their
entropy, and their mass at the own position and near it. With ``--ablate``, the metric
of the config's test set with each affinity as it is, by its mean row, by the identity,
and without the blocks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from trained_model import (  # noqa: E402
    batches,
    loaded,
    metric_table,
    numbers,
    parser_of,
    write_json,
    write_picture,
)

from nl_plugins.analysis import ablate, query_dependence  # noqa: E402
from nl_plugins.analysis.dependence import dependence_table  # noqa: E402
from nl_plugins.analysis.figures import draw_dependence  # noqa: E402

ABLATIONS = ('mean_row', 'identity', 'off')


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument('--batches', type=int, default=8, help='of the test set')
    parser.add_argument('--rows', type=int, default=64, help='sampled of each sample')
    parser.add_argument(
        '--layers', nargs='+', help='names of blocks, or of modules that hold blocks'
    )
    parser.add_argument(
        '--ablate', nargs='*', choices=ABLATIONS, help='all three without a name'
    )
    parser.add_argument('--picture', type=Path, help='mass by distance, a PNG')
    args = parser.parse_args(argv)
    with loaded(args) as runner:
        model, content = runner.model, {}
        try:
            data = batches(runner, args.batches)
            found = query_dependence(model, data, args.layers, args.rows)
            print(dependence_table(found))
            content['blocks'] = {name: one.to_dict() for name, one in found.items()}
            write_picture(args.picture, draw_dependence(found))
            if args.ablate is not None:
                rows = {}
                for how in ('as trained', *(args.ablate or ABLATIONS)):
                    trained = how == 'as trained'
                    with nullcontext() if trained else ablate(model, how, args.layers):
                        rows[how] = numbers(runner.test())
                content['metrics'] = rows
                print('\n' + metric_table(rows, 'affinity'))
        except ValueError as error:
            raise SystemExit(f'query_dependence.py: {error}') from None
    write_json(args.json, content)


if __name__ == '__main__':
    main()
