# Copyright (c) The nl_plugins authors. All rights reserved.
"""Train the models of bench_train.yml and compare them with the metafiles.

    T=.dev_scripts/benchmark_regression/3-benchmark_train.py
    python $T --local                              # preview
    python $T --local --non-distributed --run      # one after the other, one process
    python $T --summary --save

Without ``--local`` the jobs go to slurm. The number of GPUs is that of the name
(``8xb32``), at most 8. ``--range`` chooses by the cycle in which a model is trained
again: ``month`` (also ``<=quarter``, ``>month``, ...).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import yaml  # noqa: E402
from regression import (  # noqa: E402
    METRICS,
    add_arguments,
    expected,
    gpu_number,
    load_models,
    make_job,
    preview_or_run,
    read_log,
    save_csv,
    select,
    show,
    two_digits,
)

CYCLES = ('month', 'quarter', 'half-year', 'no-training')
MODELS = Path(__file__).with_name('bench_train.yml')


def cycles(text: str) -> set[str]:
    """``month``, ``<=quarter``, ``>month``, ... ; a bare name includes shorter ones."""
    found = re.fullmatch(r'(<=|>=|<|>|=)?([-a-z]+)', text)
    if not found or found[2] not in CYCLES:
        raise argparse.ArgumentTypeError(f'{text!r}: choose one of {", ".join(CYCLES)}')
    symbol, level = found[1] or '<=', CYCLES.index(found[2])
    chosen = {found[2]} if '=' in symbol else set()
    if '<' in symbol:
        chosen |= set(CYCLES[:level])
    if '>' in symbol:
        chosen |= set(CYCLES[level + 1 :])
    if not chosen:
        raise argparse.ArgumentTypeError(f'{text!r} chooses nothing')
    return chosen


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, 'train')
    parser.add_argument(
        '--non-distributed', action='store_true', help='one process, for debugging'
    )
    parser.add_argument(
        '--range', type=cycles, default='month', metavar='{' + ','.join(CYCLES) + '}'
    )
    args = parser.parse_args(argv)
    args.work_dir = Path(args.work_dir).resolve()
    return args


def chosen_models(args: argparse.Namespace) -> dict:
    """The models of bench_train.yml in the range."""
    index = load_models()
    items = yaml.safe_load(MODELS.read_text(encoding='utf-8'))
    unknown = [item['Name'] for item in items if item['Name'] not in index]
    if unknown:
        sys.exit(f'{MODELS.name} names models that do not exist: {" ".join(unknown)}')
    names = [item['Name'] for item in items if item['Cycle'] in args.range]
    return select({name: index[name] for name in names}, args.models)


def train(models: Mapping, args: argparse.Namespace) -> None:
    """Preview or start the jobs."""
    jobs = []
    for port, (name, model) in enumerate(models.items(), args.port):
        options = ['default_hooks.checkpoint.max_keep_ckpts=2']
        options.append('default_hooks.checkpoint.save_best=auto')
        gpus = gpu_number(name)
        if gpus > 8:
            gpus = 8
            options.append('auto_scale_lr.enable=True')
        script = ['tools/train.py', model.config]
        distributed = not args.non_distributed
        jobs.append(make_job(args, name, script, gpus, port, options, distributed))
    preview_or_run(jobs, args.run)


def summary(models: Mapping, args: argparse.Namespace) -> None:
    """Compare the last and the best validation with the metafiles."""
    columns = ['Name']
    for metric in METRICS:
        columns += [f'{metric} (expect)', f'{metric} (last)', f'{metric} (best)']
    columns.append('Log')
    rows = []
    for name, model in models.items():
        log = read_log(args.work_dir / name, 'vis_data/scalars.json')
        path, lines = log or (None, [])
        wanted, row = expected(model), [name]
        for metric in METRICS:
            values = [line[metric] for line in lines if metric in line]
            best = max(values, default=None)
            row += [
                two_digits(wanted.get(metric)),
                two_digits(values[-1] if values else None),
                f'{best:.2f} ({values.index(best) + 1})' if values else '',
            ]
        rows.append([*row, str(path.relative_to(args.work_dir)) if path else ''])
    show('Training benchmark', columns, rows)
    if args.save:
        save_csv(args.work_dir / 'benchmark_summary.csv', columns, rows)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    models = chosen_models(args)
    if args.summary:
        summary(models, args)
    else:
        train(models, args)


if __name__ == '__main__':
    main()
