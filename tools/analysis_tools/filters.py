# Copyright (c) The nl_plugins authors. All rights reserved.
"""Do the filters of a network's blocks smooth, sharpen or pass?

    python tools/analysis_tools/filters.py CONFIG CHECKPOINT --picture filters.png

For every block that has a spectrum (as many keys as queries), before and after
training: the gain of each channel at the eigenvalues of the affinity of the first test
batch, as median and spread, and how many channels smooth, sharpen or pass.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from trained_model import (  # noqa: E402
    batches,
    loaded,
    parser_of,
    write_json,
    write_picture,
)

from nl_plugins.analysis import (  # noqa: E402
    channel_response,
    filter_shape,
    graph_spectrum,
    record_attention,
)
from nl_plugins.analysis.figures import draw_filters  # noqa: E402


def measured(runner) -> dict[str, tuple]:
    """Spectrum, eigenvalues, gains and shape of every block's filter."""
    model, found = runner.model, {}
    with torch.no_grad(), record_attention(model) as records:
        for batch in batches(runner, 1):
            model.test_step(batch)
    for name, record in records.items():
        _, queries, keys = record.affinity.shape
        if queries != keys:
            continue
        block = model.get_submodule(name)
        spectrum = graph_spectrum(record.affinity)
        low, high = spectrum.values.min().item(), spectrum.values.max().item()
        eigenvalues = torch.linspace(low, high, 101, dtype=torch.double)
        gains = channel_response(block, eigenvalues).double().cpu()
        found[name] = spectrum, eigenvalues, gains, filter_shape(block, spectrum)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument('--picture', type=Path, help='the curves, a PNG')
    args = parser.parse_args(argv)
    trained_from, found = args.checkpoint, {}
    for state, checkpoint in (('before', None), ('after', trained_from)):
        args.checkpoint = checkpoint
        with loaded(args) as runner:
            for name, values in measured(runner).items():
                found.setdefault(name, {})[state] = values
    if not found:
        raise SystemExit('filters.py: no block of the model has a square affinity')
    content: dict = {}
    print('| block | training | eigenvalues | smooth | pass | sharpen |')
    print('|' + ' --- |' * 6)
    for name, states in found.items():
        for state, (spectrum, eigenvalues, gains, shape) in states.items():
            limits = f'{eigenvalues[0].item():.2f} .. {eigenvalues[-1].item():.2f}'
            print(
                f'| `{name}` | {state} | {limits} | {shape.smooth:.0%} | '
                f'{shape.passing:.0%} | {shape.sharpen:.0%} |'
            )
            content.setdefault(name, {})[state] = dict(
                exact=spectrum.exact,
                eigenvalues=eigenvalues.tolist(),
                gain_quantiles={
                    str(q): gains.quantile(q, 1).tolist() for q in (0.1, 0.5, 0.9)
                },
                smooth=shape.smooth,
                passing=shape.passing,
                sharpen=shape.sharpen,
            )
    write_picture(args.picture, draw_filters(found))
    write_json(args.json, content)


if __name__ == '__main__':
    main()
