# Copyright (c) The nl_plugins authors. All rights reserved.
"""``tools/train.py`` and ``test.py`` on the device, one tiny config a codebase."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .section import Section

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / 'tests' / 'test_tools' / 'tiny'
# Config, metric, last checkpoint, the layers whose norm may become SyncBN.
SCOPES = {
    'classification': ('accuracy/top1', 'epoch_2.pth', ['backbone.backbone']),
    'segmentation': ('mIoU', 'iter_4.pth', ['backbone', 'decode_head']),
    'recognition': ('acc/top1', 'epoch_2.pth', ['backbone.backbone']),
}
LATE = 'no time was left'
SIZES = {'cifar10': (16, 8), 'cityscapes': (5, 2), 'sthv1': (8, 4)}


def run(section: Section) -> None:
    """Several runs side by side: none of them is timed."""
    if not TINY.is_dir():
        section.verdict('tools', None, f'needs a checkout with {TINY}')
        return
    scopes = list(SCOPES)[: 1 if section.quick else None]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_data(folder)
        with ThreadPoolExecutor(1 if section.quick else 8) as pool:
            trained = dict(
                zip(scopes, pool.map(lambda s: _plain(section, folder, s), scopes))
            )
            jobs = [
                (scope, kind)
                for kind in ('test', *_KINDS)
                for scope in scopes
                if trained[scope]
            ]
            if section.quick:
                jobs = jobs[:1]
            list(pool.map(lambda job: _job(section, folder, *job), jobs))
    rows = section.rows.get('tools', [])
    late = [f'{r["scope"]} {r["kind"]}' for r in rows if r['problem'] == LATE]
    section.skipped += late
    for kind in ('train', 'test', *_KINDS):
        some = [r for r in rows if r['kind'] == kind and r['problem'] != LATE]
        bad = [f'{r["scope"]}: {r["problem"]}' for r in some if r['problem']]
        section.verdict(
            _NAMES[kind],
            not bad if some else None,
            f'{len(some) - len(bad)} of {len(some)} codebases'
            + (f'; {"; ".join(bad)}' if bad else ''),
        )


_NAMES = {
    'train': 'tools/train.py',
    'test': "tools/test.py equals the CPU's metrics",
    'amp': 'tools/train.py --amp',
    'distributed': 'dist_train.sh CONFIG 1, SyncBN',
    'accumulation': 'gradient accumulation',
    'compile': "Runner's compile option",
}
_KINDS = ('distributed', 'amp', 'accumulation', 'compile')


def _make_data(folder: Path) -> None:
    command = [ROOT / 'tools/dataset_converters/make_mini_data.py']
    command += ['--out', folder / 'data', '--only', *SIZES]
    for name, sizes in SIZES.items():
        command += [f'--{name}', *sizes]
    subprocess.run(
        [sys.executable, *map(str, command)], check=True, stdout=subprocess.DEVNULL
    )


def _plain(section: Section, folder: Path, scope: str) -> bool:
    return _job(section, folder, scope, 'train')


def _job(section: Section, folder: Path, scope: str, kind: str) -> bool:
    """One run; True if it did what it should."""
    row: dict[str, Any] = {'scope': scope, 'kind': kind, 'problem': None}
    if section.left() < 5:
        row['problem'] = LATE
    else:
        try:
            row['found'] = _CHECKS.get(kind, _trains)(section, folder, scope, kind)
        except subprocess.TimeoutExpired:
            row['problem'] = LATE
        except (AssertionError, subprocess.SubprocessError, OSError) as error:
            row['problem'] = str(error)[-600:] or type(error).__name__
    section.add('tools', row)
    return row['problem'] is None


def _launch(section: Section, folder: Path, *command: Any, **variables: str) -> str:
    environment = {
        **os.environ,
        'PYTHON': sys.executable,
        'PYTHONPATH': os.pathsep.join([str(TINY), os.environ.get('PYTHONPATH', '')]),
        'OMP_NUM_THREADS': '2',
        **variables,
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=max(5, section.left()),
    )
    if done.returncode:
        raise AssertionError(f'status {done.returncode}: {done.stdout[-500:]}')
    return done.stdout


def _trains(section: Section, folder: Path, scope: str, kind: str) -> dict:
    work_dir = folder / f'{scope}_{kind}'
    command = [sys.executable, ROOT / 'tools/train.py', TINY / f'{scope}.py']
    flags: list[Any] = ['--work-dir', work_dir]
    variables = {}
    if kind == 'amp':
        flags += ['--amp']
    if kind == 'compile':
        flags += ['--cfg-options', 'compile=True']
    if kind == 'accumulation':
        flags += ['--cfg-options', 'optim_wrapper.accumulative_counts=2']
    if kind == 'distributed':
        command = ['bash', ROOT / 'tools/dist_train.sh', TINY / f'{scope}.py', 1]
        flags += ['--cfg-options']
        flags += [f'model.{p}.norm_cfg.type=SyncBN' for p in SCOPES[scope][2]]
        variables['PORT'] = _free_port()
    output = _launch(section, folder, *command, *flags, **variables)
    metric, last, _ = SCOPES[scope]
    assert (work_dir / last).is_file(), f'{last} was not written'
    found = {'loss': _scalar(work_dir, 'loss'), metric: _scalar(work_dir, metric)}
    assert all(map(math.isfinite, found.values())), f'not finite: {found}'
    if section.cuda and kind == 'train':
        assert _scalar(work_dir, 'memory') > 0, 'no memory of a GPU was used'
    if kind == 'distributed':
        backend = 'nccl' if section.cuda else 'gloo'
        assert 'Distributed training: True' in output, 'it did not run distributed'
        found['backend'] = backend
    return found


def _tests(section: Section, folder: Path, scope: str, kind: str) -> dict:
    """The metrics of one checkpoint on the device and on the CPU."""
    metric, last, _ = SCOPES[scope]
    found = {}
    for device, variables in (
        ('device', {'NVIDIA_TF32_OVERRIDE': '0'}),
        ('cpu', {'CUDA_VISIBLE_DEVICES': ''}),
    ):
        work_dir = folder / f'{scope}_test_{device}'
        command = [sys.executable, ROOT / 'tools/test.py', TINY / f'{scope}.py']
        command += [folder / f'{scope}_train' / last, '--work-dir', work_dir]
        _launch(section, folder, *command, **variables)
        (report,) = work_dir.glob('*/*.json')
        metrics = json.loads(report.read_text())
        found[device] = {k: v for k, v in metrics.items() if not k.endswith('time')}
    one, other = found['device'], found['cpu']
    # mmseg writes two decimals; a pixel on the border may fall to either side.
    same = one.keys() == other.keys() and all(
        math.isclose(one[key], other[key], rel_tol=1e-3, abs_tol=0.02) for key in one
    )
    assert same, f'{one} on the device, {other} on the CPU'
    return {metric: one[metric]}


_CHECKS = {'test': _tests}


def _scalar(work_dir: Path, key: str) -> float:
    logs = work_dir.glob('*/vis_data/scalars.json')
    lines = max(logs, key=os.path.getmtime).read_text().splitlines()
    values = [json.loads(line)[key] for line in lines if f'"{key}"' in line]
    assert values, f'{key} is not in the log'
    return float(values[-1])


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])
