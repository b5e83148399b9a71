# Copyright (c) The nl_plugins authors. All rights reserved.
"""How far does a network look?  Its effective receptive field, with and without blocks.

    python tools/analysis_tools/receptive_field.py CONFIG [CHECKPOINT] --picture erf.png

The gradient of the centre of a feature map with respect to the input, squared and
averaged over the first batches of the test set (Luo et al. 2016); and the radius, in
pixels of the input, that holds half and nine tenths of it. Without a checkpoint, of the
network as it is initialised.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from trained_model import (  # noqa: E402
    backbone_of,
    inputs,
    loaded,
    parser_of,
    write_json,
    write_picture,
)

from nl_plugins.analysis import ablate, effective_receptive_field  # noqa: E402
from nl_plugins.analysis.ablation import filtering_modules  # noqa: E402
from nl_plugins.analysis.figures import draw_receptive_fields  # noqa: E402


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, checkpoint=False)
    parser.add_argument('--batches', type=int, default=8, help='of the test set')
    parser.add_argument(
        '--layer',
        help='module whose output is looked at; default: decode_head, else backbone',
    )
    parser.add_argument('--picture', type=Path, help='the fields side by side, a PNG')
    args = parser.parse_args(argv)
    with loaded(args) as runner:
        model = runner.model
        backbone_of(model)
        dense = hasattr(model, 'decode_head')
        layer = args.layer or ('decode_head' if dense else 'backbone')
        try:
            data = list(inputs(runner, args.batches))
            fields = {'as it is': effective_receptive_field(model, data, layer)}
            if filtering_modules(model):
                with ablate(model, 'off'):
                    fields['blocks off'] = effective_receptive_field(model, data, layer)
        except ValueError as error:
            raise SystemExit(f'receptive_field.py: {error}') from None
    print('| network | radius of 50 %, pixels | radius of 90 %, pixels |')
    print('| --- | --- | --- |')
    content = {}
    for name, field in fields.items():
        content[name] = {str(share): field.radius(share) for share in (0.5, 0.9)}
        print(f'| {name} | {field.radius(0.5):.1f} | {field.radius(0.9):.1f} |')
    write_picture(args.picture, draw_receptive_fields(fields))
    write_json(args.json, content)


if __name__ == '__main__':
    main()
