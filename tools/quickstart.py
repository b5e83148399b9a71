# Copyright (c) The nl_plugins authors. All rights reserved.
"""Train and test a small network of each codebase on synthetic mini data.

Ordinary configs through tools/train.py and tools/test.py; minutes on two CPU cores,
on a GPU when there is one. Leaves in work_dirs/quickstart: summary.json, and for
each network its logs, checkpoint and pictures. The data is synthetic: the figures
show that everything works, and say nothing about the real sets.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEYS = ('task', 'config', 'blocks', 'metric', 'value', 'chance', 'seconds')


@dataclass(frozen=True)
class Task:
    """One network to train and test.

    Attributes:
        name (str): What ``--task`` calls it; its codebase's folder in configs/.
        config (str): Path below configs/.
        data (str): Mini set that it needs.
        metric (str): Key that the codebase's test script writes.
        label (str): What the key is called in the table, in percent.
        scale (float): Turns the codebase's unit into percent.
    """

    name: str
    config: str
    data: str
    metric: str
    label: str
    scale: float = 1.0

    @property
    def folder(self) -> str:
        """Where its results go, below the quickstart's folder."""
        return Path(self.config).stem


TASKS = (
    Task(
        'classification',
        'classification/snl/preresnet20-snl1_1xb32-8e_mini-cifar10.py',
        'cifar10',
        'accuracy/top1',
        'top-1 (%)',
    ),
    Task(
        'segmentation',
        'segmentation/snl/snl_r18-d8_1xb4-400_mini-cityscapes-128x256.py',
        'cityscapes',
        'mIoU',
        'mIoU (%)',
    ),
    Task(
        'recognition',
        'recognition/rnl/tsm_r18-rnl_1xb8-1x1x8-8e_mini-sthv1-rgb.py',
        'sthv1',
        'acc/top1',
        'top-1 (%)',
        100.0,
    ),
    Task(
        'recognition',
        'recognition/nl/i3d_r18-nl_1xb8-16x2x1-8e_mini-kinetics400-rgb.py',
        'kinetics400',
        'acc/top1',
        'top-1 (%)',
        100.0,
    ),
    Task(
        'detection',
        'detection/snl/retinanet_r18-snl1_fpn_1xb8-12e_mini-coco.py',
        'coco',
        'coco/bbox_mAP',
        'box AP (%)',
        100.0,
    ),
)
# What mmengine's logger writes while it trains or tests.
_PROGRESS = re.compile(
    r'((?:Epoch|Iter)\(\w+\)) +((?:\[ *\d+/?\d*\])+).*?(eta: \S+)?  '
)


class StepError(Exception):
    """A step that failed: which, why, and where its log is."""

    def __init__(self, step: str, log: Path, reason: str) -> None:
        super().__init__(f'step {step!r} failed: {reason}\n  log: {log}')
        self.step = step


def run_step(step: str, command: Sequence[str], log: Path) -> None:
    """Run a command with its output in ``log``, showing how far it is.

    Raises:
        StepError: It did not end with status 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ)
    env['PYTHONUNBUFFERED'] = '1'  # the log is read while it grows
    # Small networks gain nothing from more threads.
    env.setdefault('OMP_NUM_THREADS', str(min(4, os.cpu_count() or 1)))
    start, tail = time.time(), []
    with open(log, 'w', encoding='utf-8', errors='replace') as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
        )
        try:
            for line in process.stdout:
                file.write(line)
                tail = [*tail[-14:], line.rstrip()] if line.strip() else tail
                found = _PROGRESS.search(line)
                if found and sys.stdout.isatty():
                    state = ' '.join(part for part in found.groups() if part)
                    print(f'\r  {step}: {state:<50}', end='', flush=True)
        except BaseException:
            process.terminate()
            raise
        finally:
            status = process.wait()
    lead = '\r' if sys.stdout.isatty() else ''
    if status:
        print(f'{lead}  {step}: failed' + ' ' * 50, flush=True)
        last = '\n'.join(f'  | {line}' for line in tail)
        raise StepError(step, log, f'exit status {status}, last lines:\n{last}')
    seconds = time.time() - start
    print(f'{lead}  {step}: done in {seconds:.0f} s' + ' ' * 40, flush=True)


def read_metric(task: Task, folder: Path, log: Path) -> float:
    """The metric that the newest test run below ``folder`` wrote, in percent."""
    for path in sorted(folder.glob('*/*.json'), reverse=True):
        metrics = json.loads(path.read_text())
        if task.metric in metrics:
            return metrics[task.metric] * task.scale
    raise StepError('test', log, f'it wrote no {task.metric!r} below {folder}')


def run_task(task: Task, out: Path, overrides: Sequence[str]) -> dict:
    """Train, test and draw; returns the row of the summary."""
    config = f'configs/{task.config}'
    work_dir = out / task.folder
    if work_dir.exists():
        shutil.rmtree(work_dir)
    options = ['--cfg-options', *overrides] if overrides else []
    start = time.time()
    run_step(
        'train',
        [sys.executable, 'tools/train.py', config, '--work-dir', str(work_dir)]
        + options,
        work_dir / 'train.log',
    )
    last = work_dir / 'last_checkpoint'
    if not last.is_file():
        raise StepError('train', work_dir / 'train.log', 'it left no checkpoint')
    checkpoint = last.read_text().strip()
    test_log = work_dir / 'test.log'
    run_step(
        'test',
        [sys.executable, 'tools/test.py', config, checkpoint]
        + ['--work-dir', str(work_dir / 'test'), *options],
        test_log,
    )
    value = read_metric(task, work_dir / 'test', test_log)
    seconds = time.time() - start
    run_step(
        'pictures',
        [sys.executable, 'tools/visualization/quickstart_pictures.py', config]
        + [checkpoint, '--out', str(work_dir), *options],
        work_dir / 'pictures.log',
    )
    facts = json.loads((work_dir / 'facts.json').read_text())
    return dict(
        task=task.name,
        config=config,
        blocks=', '.join(facts['blocks']),
        metric=task.label,
        value=round(value, 2),
        chance=round(facts['chance'], 2),
        seconds=round(seconds, 1),
    )


def read_summary(path: Path) -> list[dict]:
    """Rows of an earlier run that still belong to a task."""
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    configs = {f'configs/{task.config}' for task in TASKS}
    return [row for row in rows if row.get('config') in configs]


def write_summary(path: Path, rows: Sequence[dict]) -> None:
    """Write the rows in the order of the tasks."""
    order = [f'configs/{task.config}' for task in TASKS]
    rows = sorted(rows, key=lambda row: order.index(row['config']))
    temporary = path.with_suffix('.tmp')
    temporary.write_text(json.dumps(rows, indent=2) + '\n')
    os.replace(temporary, path)


def table(rows: Sequence[dict]) -> str:
    """The summary as aligned text."""
    cells = [list(KEYS)]
    for row in rows:
        stem = Path(row['config']).stem
        shown = {**row, 'config': stem}
        cells.append([str(shown[key]) for key in KEYS])
    widths = [max(len(line[i]) for line in cells) for i in range(len(KEYS))]
    lines = [
        '  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
        for line in cells
    ]
    return '\n'.join([lines[0], '-' * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='quickstart.sh',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(dict.fromkeys(task.name for task in TASKS))
    parser.add_argument(
        '--task', choices=names, help='only this one; the others keep their results'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/quickstart'),
        help='results (%(default)s)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='changes to the configs, as tools/train.py takes them',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    out = args.out if args.out.is_absolute() else ROOT / args.out
    tasks = [task for task in TASKS if args.task in (None, task.name)]
    out.mkdir(parents=True, exist_ok=True)
    summary = out / 'summary.json'
    running = {f'configs/{task.config}' for task in tasks}
    rows = [row for row in read_summary(summary) if row['config'] not in running]
    write_summary(summary, rows)
    start, failures = time.time(), []
    print('mini data (synthetic)', flush=True)
    try:
        run_step(
            'data',
            [sys.executable, 'tools/dataset_converters/make_mini_data.py', '--only']
            + [task.data for task in tasks],
            out / 'data.log',
        )
    except StepError as error:
        print(f'\nquickstart: {error}', file=sys.stderr)
        return 1
    for number, task in enumerate(tasks, 1):
        print(f'[{number}/{len(tasks)}] {task.name}: {task.config}', flush=True)
        try:
            rows.append(run_task(task, out, args.cfg_options))
        except StepError as error:
            failures.append((task, error))
            continue
        write_summary(summary, rows)
    rows = read_summary(summary)
    if rows:
        print(f'\n{table(rows)}\n')
    print(f'summary:  {summary}')
    for picture in sorted(out.glob('*/*.png')):
        print(f'picture:  {picture}')
    print(f'total: {time.time() - start:.0f} s')
    for task, error in failures:
        print(f'\nquickstart: {task.name} ({task.config}): {error}', file=sys.stderr)
    if failures:
        print('What was done stays; run the same command again.', file=sys.stderr)
    return 1 if failures else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print('\nquickstart: interrupted; what was done stays', file=sys.stderr)
        sys.exit(130)
