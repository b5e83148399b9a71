# Copyright (c) The nl_plugins authors. All rights reserved.
"""Test checkpoints against the results of the metafiles.

    T=.dev_scripts/benchmark_regression/2-benchmark_test.py
    python $T CHECKPOINT_ROOT --local                    # preview
    python $T CHECKPOINT_ROOT --local --run              # one after the other, here
    python $T CHECKPOINT_ROOT --summary --save

Without ``--local`` the jobs go to slurm. A model needs a checkpoint in
``CHECKPOINT_ROOT``: ``NAME.pth``, a published ``NAME_DATE-HASH.pth``, or the work dir
``NAME`` of its training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from checkpoints import find_checkpoint  # noqa: E402
from regression import (  # noqa: E402
    METRICS,
    add_arguments,
    console,
    expected,
    load_models,
    make_job,
    preview_or_run,
    read_log,
    save_csv,
    select,
    show,
    two_digits,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint_root', type=Path, help='folder of checkpoints')
    add_arguments(parser, 'test')
    parser.add_argument('--gpus', type=int, default=1)
    parser.add_argument(
        '--no-skip', action='store_true', help='models without results too'
    )
    args = parser.parse_args(argv)
    args.work_dir = Path(args.work_dir).resolve()
    args.checkpoint_root = args.checkpoint_root.resolve()
    return args


def test(models: Mapping, args: argparse.Namespace) -> None:
    """Preview or start the jobs."""
    jobs, missing = [], []
    for port, (name, model) in enumerate(models.items(), args.port):
        checkpoint = find_checkpoint(model, args.checkpoint_root)
        if checkpoint is None:
            missing.append(name)
            continue
        script = ['tools/test.py', model.config, str(checkpoint)]
        options = [f'env_cfg.dist_cfg.port={port}']
        distributed = args.gpus > 1
        jobs.append(make_job(args, name, script, args.gpus, port, options, distributed))
    if missing:
        console.print(
            f'{len(missing)} models have no checkpoint in {args.checkpoint_root}: '
            + ', '.join(missing)
        )
    preview_or_run(jobs, args.run)


def summary(models: Mapping, args: argparse.Namespace) -> None:
    """Compare what was measured with the metafiles."""
    columns = ['Name']
    columns += [title for name in METRICS for title in (f'{name} (expect)', name)]
    columns.append('Date')
    plain, coloured = [], []
    for name, model in models.items():
        log = read_log(args.work_dir / name, '[0-9]*.json')
        path, lines = log or (None, [{}])
        wanted, found = expected(model), lines[-1]
        row, colours = [name], [name]
        for metric in METRICS:
            row += [two_digits(wanted.get(metric)), two_digits(found.get(metric))]
            colours += row[-2:]
            if metric in wanted and metric in found:
                colours[-1] = colour(found[metric], wanted[metric], 0.01)
        date = datetime.fromtimestamp(path.stat().st_mtime) if path else None
        last = date.strftime('%Y-%m-%d') if date else ''
        plain.append([*row, last])
        coloured.append([*colours, last])
    show('Test benchmark', columns, coloured)
    if args.save:
        save_csv(args.work_dir / 'test_benchmark_summary.csv', columns, plain)


def colour(value: float, wanted: float, tolerance: float) -> str:
    """Green above what is expected, red below, by more than the tolerance."""
    text = two_digits(value)
    if value > wanted + tolerance:
        return f'[green]{text}[/green]'
    return text if value >= wanted - tolerance else f'[red]{text}[/red]'


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    models = select(load_models(), args.models)
    if not args.no_skip:
        models = {name: model for name, model in models.items() if model.results}
    if args.summary:
        summary(models, args)
    else:
        test(models, args)


if __name__ == '__main__':
    main()
