# Copyright (c) The nl_plugins authors. All rights reserved.
"""What the three benchmark scripts share: models, metrics, jobs, tables."""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
console = Console()

#: Metric in the metafiles -> its name in a log of each codebase, and what makes it
#: the metafile's percentage.
METRICS = {
    'Top 1 Accuracy': {'accuracy/top1': 1, 'acc/top1': 100},
    'Top 5 Accuracy': {'accuracy/top5': 1, 'acc/top5': 100},
    'mIoU': {'mIoU': 1},
    'box AP': {'coco/bbox_mAP': 100},
    'mask AP': {'coco/segm_mAP': 100},
}


def load_models() -> dict:
    """Every model of the model index by its name."""
    from modelindex.load_model_index import load

    index = load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    return {model.name: model for model in index.models}


def select(models: Mapping, patterns: Sequence[str] | None) -> dict:
    """The models whose name begins with one of the patterns.

    Raises:
        SystemExit: If there is none; the message lists the names.
    """
    if not patterns:
        return dict(models)
    chosen = {
        name: models[name]
        for pattern in patterns
        for name in fnmatch.filter(models, f'{pattern}*')
    }
    if not chosen:
        names = '\n'.join(models)
        sys.exit(f'no model matches {" ".join(patterns)}; there are:\n{names}')
    return chosen


def gpu_number(name: str) -> int:
    """``8xb32`` in a name: 8 GPUs."""
    found = re.search(r'[_-](\d+)xb\d+', name)
    if not found:
        raise ValueError(f'{name}: the name has no part like 8xb32')
    return int(found[1])


def metrics_of(line: Mapping) -> dict[str, float]:
    """The metrics of one line of a log, in the names and scale of the metafiles."""
    return {
        name: float(line[key]) * scale
        for name, keys in METRICS.items()
        for key, scale in keys.items()
        if key in line
    }


def read_log(work_dir: Path, pattern: str) -> tuple[Path, list[dict]] | None:
    """The newest log below a work dir, and its lines that hold metrics.

    Args:
        work_dir (Path): Holds a folder for each run, named by its time.
        pattern (str): The log in the folder of a run: ``vis_data/scalars.json`` of
            a training, ``[0-9]*.json`` of a test.

    Returns:
        tuple: None if no log has a metric.
    """
    for log in sorted(work_dir.glob(f'*/{pattern}'), reverse=True):
        lines = [json.loads(line) for line in log.read_text().splitlines() if line]
        found = [metrics for metrics in map(metrics_of, lines) if metrics]
        if found:
            return log, found
    return None


@dataclass
class Job:
    """One shell script to run here or to give to slurm."""

    path: Path
    command: list[str]


def add_arguments(parser: argparse.ArgumentParser, kind: str) -> None:
    """The flags of both job scripts."""
    parser.add_argument('--models', nargs='+', help='names, or patterns of names')
    parser.add_argument('--run', action='store_true', help='start the jobs')
    parser.add_argument('--local', action='store_true', help='here instead of slurm')
    parser.add_argument('--summary', action='store_true', help='show the results')
    parser.add_argument('--save', action='store_true', help='save the summary as csv')
    parser.add_argument('--work-dir', type=Path, default=f'work_dirs/benchmark_{kind}')
    parser.add_argument('--port', type=int, default=29666, help='first port')
    parser.add_argument('--partition', default='mm_model', help='(slurm) partition')
    parser.add_argument(
        '--job-name', default=f'{kind}-benchmark', help='(slurm) prefix'
    )
    parser.add_argument(
        '--quotatype', choices=['reserved', 'auto', 'spot'], help='(slurm) quota'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], help='for all configs, KEY=VALUE'
    )


def make_job(
    args: argparse.Namespace,
    name: str,
    script: Sequence[str],
    gpus: int,
    port: int,
    options: Sequence[str],
    distributed: bool = True,
) -> Job:
    """Write the script of one model.

    Args:
        args (Namespace): Of :func:`add_arguments`.
        name (str): Of the model.
        script (Sequence[str]): ``tools/train.py CONFIG`` or the like.
        gpus (int): Processes.
        port (int): Where they meet.
        options (Sequence[str]): For ``--cfg-options``.
        distributed (bool): Whether a local job uses torchrun.
    """
    work_dir = args.work_dir / name
    work_dir.mkdir(parents=True, exist_ok=True)
    if not args.local:
        runner, launcher = ['srun', 'python', '-u'], 'slurm'
    elif distributed:
        runner = ['torchrun', '--master_addr=127.0.0.1', f'--master_port={port}']
        runner, launcher = [*runner, f'--nproc_per_node={gpus}'], 'pytorch'
    else:
        runner, launcher = [sys.executable, '-u'], 'none'
    command = [*runner, *script, f'--work-dir={work_dir}', f'--launcher={launcher}']
    options = [*options, *args.cfg_options]
    if options:
        command += ['--cfg-options', *options]
    lines = [
        '#!/bin/bash',
        f'#SBATCH --output {work_dir}/job.%j.out',
        f'#SBATCH --partition={args.partition}',
        f'#SBATCH --job-name {args.job_name}_{name}',
        f'#SBATCH --gres=gpu:{min(8, gpus)}',
        f'#SBATCH --ntasks-per-node={min(8, gpus)}',
        f'#SBATCH --ntasks={gpus}',
        '#SBATCH --cpus-per-task=5',
        *([f'#SBATCH --quotatype {args.quotatype}'] if args.quotatype else []),
        '',
        f'cd {shlex.quote(str(ROOT))}',
        shlex.join(command),
    ]
    path = work_dir / 'job.sh'
    write(path, '\n'.join(lines) + '\n')
    return Job(path, ['bash' if args.local else 'sbatch', str(path)])


def preview_or_run(jobs: Sequence[Job], run: bool) -> None:
    """Show one script and all commands; start them only with ``run``.

    Raises:
        SystemExit: If there is no job, or one failed.
    """
    if not jobs:
        sys.exit('no job: no model has what it needs')
    commands = '\n'.join(shlex.join(job.command) for job in jobs)
    table = Table(title=f'{len(jobs)} jobs')
    table.add_column(str(jobs[0].path))
    table.add_column('commands')
    table.add_row(
        Syntax(jobs[0].path.read_text(), 'bash', word_wrap=True),
        Syntax(commands, 'bash', word_wrap=True),
    )
    console.print(table)
    if not run:
        console.print('This was a preview; --run starts the jobs.')
        return
    failed = []
    for number, job in enumerate(jobs, 1):
        console.print(f'[{number}/{len(jobs)}] {shlex.join(job.command)}')
        if subprocess.run(job.command).returncode:
            failed.append(str(job.path))
    if failed:
        sys.exit(f'{len(failed)} of {len(jobs)} jobs failed: {" ".join(failed)}')


def expected(model) -> dict[str, float]:
    """The metrics that the metafile promises."""
    return dict(model.results[0].metrics) if model.results else {}


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table without its empty columns."""
    rows = [list(row) for row in rows]
    filled = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    table = Table(title=title)
    for index in filled:
        table.add_column(columns[index], overflow='fold')
    for row in rows:
        table.add_row(*(row[index] for index in filled))
    console.print(table)


def save_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write the table as a file."""
    temporary = path.with_name(path.name + '.tmp')
    with temporary.open('w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([columns, *rows])
    os.replace(temporary, path)
    console.print(f'saved {path}')


def write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, path)


def two_digits(value: float | None) -> str:
    return '' if value is None else f'{value:.2f}'
