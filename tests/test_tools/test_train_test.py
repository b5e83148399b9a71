# Copyright (c) The nl_plugins authors. All rights reserved.
"""tools/train.py, tools/test.py and their launchers, in processes of their own."""

import importlib
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from nl_plugins.run import find_script

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).resolve().parent / 'tiny'
TOOLS = ROOT / 'tools'


class Scope(NamedTuple):
    """How one codebase names things."""

    config: str
    package: str
    metric: str
    first: str  # the checkpoint that an interrupted run leaves
    last: str
    interrupt_after: int


SCOPES = [
    Scope(
        'classification', 'mmpretrain', 'accuracy/top1', 'epoch_1.pth', 'epoch_2.pth', 6
    ),
    Scope('segmentation', 'mmseg', 'mIoU', 'iter_2.pth', 'iter_4.pth', 3),
    Scope('recognition', 'mmaction', 'acc/top1', 'epoch_1.pth', 'epoch_2.pth', 6),
    Scope('detection', 'mmdet', 'coco/bbox_mAP', 'epoch_1.pth', 'epoch_2.pth', 5),
]


def launch(folder, *command, status=0, **variables):
    """Run a command in ``folder``; its output, when the exit status is right."""
    defaults = dict(
        PYTHON=sys.executable,
        PYTHONPATH=str(TINY),
        OMP_NUM_THREADS='1',
        MKL_NUM_THREADS='1',
    )
    result = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **defaults, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == status, result.stdout[-6000:]
    # Python's warnings; mmengine's own lines say WARNING.
    ours = any(str(part).startswith(str(TOOLS)) for part in command)
    warned = [
        line for line in result.stdout.splitlines() if ours and 'Warning: ' in line
    ]
    assert not warned, warned
    return result.stdout


def last_scalars(work_dir: Path, key: str) -> dict:
    """The last line of a run's log of scalars that has ``key``."""
    log = max(work_dir.glob('*/vis_data/scalars.json'), key=os.path.getmtime)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if key in line][-1]


def test_metrics(work_dir: Path) -> dict:
    """What a test run writes beside its log, without the timings."""
    (report,) = work_dir.glob('*/*.json')
    metrics = json.loads(report.read_text())
    return {k: v for k, v in metrics.items() if not k.endswith('time')}


test_metrics.__test__ = False


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A working folder with the mini data that the tiny configs read."""
    pytest.importorskip('cv2')
    folder = tmp_path_factory.mktemp('run')
    sys.path.insert(0, str(TOOLS / 'dataset_converters'))
    try:
        make_mini_data = importlib.import_module('make_mini_data')
    finally:
        sys.path.pop(0)
    sizes = dict(cifar10=(16, 8), cityscapes=(5, 2), sthv1=(8, 4), coco=(8, 4))
    arguments = ['--out', str(folder / 'data'), '--only', *sizes]
    for name, size in sizes.items():
        arguments += [f'--{name}', *map(str, size)]
    assert make_mini_data.main(arguments) == 0
    return folder


@pytest.fixture(scope='module', params=SCOPES, ids=lambda scope: scope.config)
def trained(request, folder):
    """An uninterrupted run of one scope by tools/train.py."""
    scope = request.param
    pytest.importorskip(scope.package)
    config, work_dir = TINY / f'{scope.config}.py', folder / scope.config
    launch(folder, sys.executable, TOOLS / 'train.py', config, '--work-dir', work_dir)
    assert (work_dir / scope.last).is_file()
    return scope, config, work_dir


def test_train_learns_something_finite(trained):
    scope, _, work_dir = trained
    assert math.isfinite(last_scalars(work_dir, 'loss')['loss'])
    assert math.isfinite(last_scalars(work_dir, scope.metric)[scope.metric])


def test_resume_after_an_interruption(trained, folder):
    """Interrupted in the codebase's own script, resumed in ours."""
    scope, config, uninterrupted = trained
    if scope.config == 'detection':
        pytest.skip('mmengine resumes it as it resumes classification')
    work_dir = folder / f'{scope.config}_interrupted'
    launch(
        folder,
        sys.executable,
        find_script(scope.package, 'train.py'),
        config,
        '--work-dir',
        work_dir,
        '--cfg-options',
        f'custom_hooks.0.after={scope.interrupt_after}',
        status=17,
        PYTHONPATH=os.pathsep.join([str(ROOT), str(TINY)]),
    )
    assert (work_dir / scope.first).is_file()
    assert not (work_dir / scope.last).exists()

    command = [sys.executable, TOOLS / 'train.py', config, '--work-dir', work_dir]
    output = launch(folder, *command, '--resume')
    assert 'resumed' in output.lower()
    expected = last_scalars(uninterrupted, scope.metric)
    found = last_scalars(work_dir, scope.metric)
    assert found[scope.metric] == expected[scope.metric]
    # As mmengine does: restricted wherever torch restricts by default.
    weights = [
        torch.load(run / scope.last)['state_dict'] for run in (uninterrupted, work_dir)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, msg=name)


def test_one_and_two_processes_test_alike(trained, folder):
    scope, config, work_dir = trained
    checkpoint = work_dir / scope.last
    one, two = folder / f'{scope.config}_one', folder / f'{scope.config}_two'
    launch(
        folder,
        sys.executable,
        TOOLS / 'test.py',
        config,
        checkpoint,
        '--work-dir',
        one,
    )
    validated = last_scalars(work_dir, scope.metric)
    assert test_metrics(one)[scope.metric] == pytest.approx(validated[scope.metric])
    launch(
        folder,
        'bash',
        TOOLS / 'dist_test.sh',
        config,
        checkpoint,
        2,
        '--work-dir',
        two,
        PORT=free_port(),
    )
    assert test_metrics(two) == pytest.approx(test_metrics(one))


def test_two_processes_train_with_amp(trained, folder):
    scope, config, _ = trained
    if scope.config == 'detection':
        pytest.skip('tests/test_detection takes a step with AMP')
    work_dir = folder / f'{scope.config}_amp'
    options = ['optim_wrapper.optimizer.lr=0.001']
    if scope.config == 'segmentation':  # as most configs of mmseg have it
        parts = ('backbone', 'decode_head')
        options += [f'model.{part}.norm_cfg.type=SyncBN' for part in parts]
    launch(
        folder,
        'bash',
        TOOLS / 'dist_train.sh',
        config,
        2,
        '--amp',
        '--work-dir',
        work_dir,
        '--cfg-options',
        *options,
        PORT=free_port(),
    )
    assert math.isfinite(last_scalars(work_dir, 'loss')['loss'])
    dumped = (work_dir / config.name).read_text()
    assert "type='AmpOptimWrapper'" in dumped and 'lr=0.001' in dumped
    assert "launcher = 'pytorch'" in dumped


FAKE_SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" > srun.txt
while [ "$1" != "$PYTHON" ]; do shift; done
SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_LOCALID=0 SLURM_NODELIST=localhost exec "$@"
"""


def test_slurm_scripts_pass_everything_on(trained, folder, tmp_path):
    scope, config, work_dir = trained
    if scope.config != 'classification':
        pytest.skip('once is enough: the other scopes share the scripts')
    srun = tmp_path / 'srun'
    srun.write_text(FAKE_SRUN)
    srun.chmod(0o755)
    data = tmp_path / 'data'
    data.symlink_to(folder / 'data')
    launch(
        tmp_path,
        'bash',
        TOOLS / 'slurm_test.sh',
        'gpu-queue',
        'a job',
        config,
        work_dir / scope.last,
        '--work-dir',
        tmp_path / 'out',
        PATH=os.pathsep.join([str(tmp_path), os.environ['PATH']]),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=free_port(),
        GPUS='1',
        GPUS_PER_NODE='0',
        CPUS_PER_TASK='3',
        SRUN_ARGS='--quiet --exclusive',
    )
    words = (tmp_path / 'srun.txt').read_text().splitlines()
    assert words[: words.index(sys.executable)] == [
        '--partition',
        'gpu-queue',
        '--job-name',
        'a job',
        '--ntasks',
        '1',
        '--cpus-per-task',
        '3',
        '--kill-on-bad-exit=1',
        '--quiet',
        '--exclusive',
    ]
    assert scope.metric in test_metrics(tmp_path / 'out')
    # Training differs in the script and its positional arguments only.
    srun.write_text(FAKE_SRUN.splitlines()[0] + '\nprintf "%s\\n" "$@" > srun.txt\n')
    launch(
        tmp_path,
        'bash',
        TOOLS / 'slurm_train.sh',
        'gpu-queue',
        'a job',
        config,
        '--resume',
        PATH=os.pathsep.join([str(tmp_path), os.environ['PATH']]),
    )
    words = (tmp_path / 'srun.txt').read_text().splitlines()
    assert words[4:6] == ['--ntasks', '8']
    assert '--gres=gpu:8' in words and '--ntasks-per-node=8' in words
    assert words[words.index(sys.executable) :] == [
        sys.executable,
        '-u',
        str(TOOLS / 'train.py'),
        str(config),
        '--resume',
        '--launcher',
        'slurm',
    ]


@pytest.mark.parametrize(
    'script', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test']
)
def test_launchers_explain_themselves(script, tmp_path):
    output = launch(tmp_path, 'bash', TOOLS / f'{script}.sh', 'config.py', status=2)
    assert output.startswith('usage:') and 'CONFIG' in output


@pytest.fixture
def refused(monkeypatch, capsys):
    """Call a tool's main() in this process; the message it ends with."""
    pytest.importorskip('mmengine')
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.setenv('PYTHONPATH', os.environ.get('PYTHONPATH', ''))
    path = list(sys.path)

    def call(name, *arguments):
        script = importlib.import_module('codebase_script')
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            script.main(name)
        assert isinstance(stop.value.code, str)
        return stop.value.code

    yield call
    sys.path[:] = path


def test_a_missing_config(refused):
    assert refused('train.py', 'no/such.py') == (
        'train.py: the config no/such.py does not exist'
    )


def test_no_config_at_all(refused):
    message = refused('test.py', '--work-dir', 'out')
    assert 'usage: test.py CONFIG CHECKPOINT [flags]' in message


def test_a_missing_checkpoint(refused, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("default_scope = 'mmseg'\n")
    assert refused('test.py', config, 'no.pth') == (
        'test.py: the checkpoint no.pth does not exist'
    )


def test_a_config_without_scope(refused, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text('x = 1\n')
    assert refused('train.py', config) == (
        f'train.py: {config} sets no default_scope; '
        'choose one of mmaction, mmdet, mmpretrain, mmseg'
    )


def test_an_unknown_scope(refused, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("default_scope = 'mmnothing'\n")
    message = refused('train.py', config)
    assert "'mmnothing'" in message and 'mmaction, mmdet, mmpretrain, mmseg' in message


def test_a_scope_that_has_no_scripts(refused, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("default_scope = 'mmengine'\n")
    assert 'has no scripts: install it again' in refused('train.py', config)


def test_a_codebase_that_is_not_installed(refused, tmp_path, monkeypatch):
    from nl_plugins import codebases

    monkeypatch.setattr(codebases, 'is_installed', lambda package: False)
    config = tmp_path / 'config.py'
    config.write_text("default_scope = 'mmaction'\n")
    message = refused('train.py', config)
    assert 'needs mmaction2>=1.2.0, which is not installed: pip install' in message


def test_scripts_of_a_source_checkout_are_found(refused, tmp_path, monkeypatch):
    (tmp_path / 'checkout' / 'madeup_code').mkdir(parents=True)
    (tmp_path / 'checkout' / 'madeup_code' / '__init__.py').write_text('')
    (tmp_path / 'checkout' / 'tools').mkdir()
    script = tmp_path / 'checkout' / 'tools' / 'train.py'
    script.write_text('import sys\nsys.exit("ran with " + " ".join(sys.argv[1:]))\n')
    monkeypatch.syspath_prepend(tmp_path / 'checkout')
    config = tmp_path / 'config.py'
    config.write_text("default_scope = 'madeup_code'\n")
    assert refused('train.py', config, '--amp') == f'ran with {config} --amp'
