# Copyright (c) The nl_plugins authors. All rights reserved.
"""A run that is resumed equals one that was not interrupted, bit for bit."""

import gc
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine')

from nl_plugins.engine import RandomStateHook  # noqa: E402

from . import runs  # noqa: E402
from .runs import make  # noqa: E402


def trained(folder: Path, **options) -> dict:
    """Everything that a run has learnt."""
    runner = make(folder, **options)
    # Whatever ran before must not matter, as in a new process.
    random.seed(1234)
    np.random.seed(1234)
    torch.manual_seed(1234)
    if not options.get('resume'):
        runner.set_randomness(seed=0)
    runner.train()
    assert runner.iter in (15, 18)
    ema = next(hook for hook in runner.hooks if hasattr(hook, 'ema_model'))
    # Persistent workers of a process that makes many runs are in each other's way.
    runner.train_dataloader._iterator = runner.val_dataloader._iterator = None
    gc.collect()
    return dict(
        weights=runner.model.state_dict(),
        ema=ema.ema_model.state_dict(),
        optimizer=runner.optim_wrapper.state_dict(),
    )


def differing(first, second, path: str = '') -> list[str]:
    """Paths at which two nested dicts and lists differ."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [path]
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        return [
            d
            for key in first
            for d in differing(first[key], second[key], f'{path}.{key}')
        ]
    if isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        return [
            d
            for i, pair in enumerate(zip(first, second))
            for d in differing(*pair, f'{path}.{i}')
        ]
    return [] if first == second else [path]


IN_EPOCH = dict(save_by_epoch=False, interval=4)
PERSISTENT = dict(workers=2, persistent=True)
RUNS = [
    dict(),
    dict(workers=2),
    PERSISTENT,
    IN_EPOCH,
    IN_EPOCH | dict(workers=2),
    IN_EPOCH | PERSISTENT,
    IN_EPOCH | dict(accumulate=3),
    # Its order is drawn from this process.
    IN_EPOCH | PERSISTENT | dict(sampler='RandomSampler'),
    dict(by_epoch=False, interval=4, sampler='InfiniteSampler'),
    dict(by_epoch=False, interval=4, sampler='InfiniteSampler', workers=2),
    # It begins anew after each pass.
    dict(by_epoch=False, interval=7),
]


def name(options: dict) -> str:
    return ' '.join(f'{key}={value}' for key, value in options.items()) or 'epochs'


@pytest.fixture
def no_pauses(monkeypatch):
    """mmengine sleeps for seconds when data is exhausted."""
    monkeypatch.setattr('mmengine.runner.loops.time', SimpleNamespace(sleep=id))


@pytest.mark.parametrize('options', RUNS, ids=name)
def test_resumed_equals_uninterrupted(tmp_path, options, no_pauses):
    expected = trained(tmp_path / 'whole', **options)
    saved = sorted(
        (tmp_path / 'whole').glob('*_[0-9]*.pth'), key=lambda path: path.stat().st_mtime
    )
    for path in saved[:2]:
        found = trained(
            tmp_path / path.stem, load_from=str(path), resume=True, **options
        )
        assert differing(expected, found) == [], path.name


def test_without_the_hook_it_does_not(tmp_path):
    """Or else the test above would show nothing."""
    expected = trained(tmp_path / 'whole', hook=False)
    path = str(tmp_path / 'whole' / 'epoch_1.pth')
    found = trained(tmp_path / 'resumed', load_from=path, resume=True, hook=False)
    assert '.weights.layers.0.weight' in differing(expected, found)


@pytest.mark.parametrize(
    'number, after, in_val, options',
    [
        (signal.SIGTERM, 7, False, {}),
        (signal.SIGINT, 12, True, {}),
        (signal.SIGINT, 7, False, dict(by_epoch=False, sampler='InfiniteSampler')),
        (signal.SIGTERM, 8, True, dict(by_epoch=False, sampler='InfiniteSampler')),
        (signal.SIGTERM, 5, False, dict(accumulate=4)),
    ],
)
def test_a_signal_saves_and_ends(tmp_path, number, after, in_val, options):
    expected = trained(tmp_path / 'whole', **options)
    before = signal.getsignal(number)
    told = dict(number=int(number), after=after, in_val=in_val)
    try:
        with pytest.raises(SystemExit) as end:
            trained(tmp_path / 'run', signalled=told, **options)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, before)
    assert end.value.code == 128 + number
    last = (tmp_path / 'run' / 'last_checkpoint').read_text()
    assert last == str(tmp_path / 'run' / 'interrupted.pth')
    assert torch.load(last)['meta']['iter'] == after
    found = trained(tmp_path / 'run', resume=True, **options)
    assert differing(expected, found) == []


def launch(folder: Path, options: dict, *launcher: str) -> subprocess.CompletedProcess:
    """A run of its own; with what it printed."""
    return subprocess.run(
        [sys.executable, *launcher, runs.__file__, str(folder), json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        timeout=300,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
    )


@pytest.mark.skipif(not hasattr(signal, 'sigwaitinfo'), reason='needs Linux')
def test_a_signal_for_the_whole_group_ends_no_worker(tmp_path):
    told = dict(number=int(signal.SIGTERM), after=7, to='group')
    options = dict(workers=2, persistent=True)
    run = launch(tmp_path / 'run', options | dict(signalled=told))
    assert run.returncode == 143, run.stdout[-4000:]
    assert 'SIGTERM ended the run after iteration 7: ' in run.stdout
    assert '--resume goes on from there.' in run.stdout
    assert 'Traceback' not in run.stdout
    # Persistent workers of a process that makes several runs are in each other's way.
    for folder, more in (('whole', {}), ('run', dict(resume=True))):
        run = launch(tmp_path / folder, options | more)
        assert run.returncode == 0, run.stdout[-4000:]
    expected, found = (learnt(tmp_path / folder) for folder in ('whole', 'run'))
    assert differing(expected, found) == []


def learnt(folder: Path) -> dict:
    """What the last checkpoint of a run of three epochs holds of it."""
    checkpoint = torch.load(folder / 'epoch_3.pth')
    names = ('state_dict', 'ema_state_dict', 'optimizer', 'random_states')
    return {name: checkpoint[name] for name in names}


def test_two_processes(tmp_path):
    """One of them is told to end: both save and end, and go on as if they had not.

    They end with the sum of gradients that they were at.
    """
    torchrun = '-m torch.distributed.run --standalone --nproc-per-node 2'.split()
    options = dict(launcher='pytorch', by_epoch=True, accumulate=3)
    told = dict(number=int(signal.SIGTERM), after=4, to='1')
    whole = launch(tmp_path / 'whole', options, *torchrun)
    assert whole.returncode == 0, whole.stdout[-4000:]
    run = launch(tmp_path / 'run', options | dict(signalled=told), *torchrun)
    assert 'SIGTERM ended the run after iteration 6' in run.stdout, run.stdout[-4000:]
    assert torch.load(tmp_path / 'run' / 'interrupted.pth')['meta']['iter'] == 6
    run = launch(tmp_path / 'run', options | dict(resume=True), *torchrun)
    assert run.returncode == 0, run.stdout[-4000:]
    expected, found = (learnt(tmp_path / folder) for folder in ('whole', 'run'))
    assert len(found['random_states']) == 2
    assert differing(expected, found) == []


def test_a_signal_while_the_processes_agree_is_not_lost(monkeypatch):
    """It comes too late for this iteration in every process, not for the next one."""
    hook = RandomStateHook()
    hook._group, late = object(), [signal.SIGTERM, None]

    def all_reduce(number, op, group):
        hook._signal = late.pop(0) or hook._signal

    monkeypatch.setattr(torch.distributed, 'all_reduce', all_reduce)
    assert not hook._told_to_end()
    assert hook._told_to_end()


def test_other_runs_are_told_so(tmp_path, caplog):
    trained(tmp_path / 'without', hook=False)
    trained(tmp_path / 'with', workers=2)
    for folder, options, why in [
        ('without', {}, 'the checkpoint holds no states of random generators'),
        ('with', dict(workers=1), 'the data loader of the checkpoint had other'),
    ]:
        path = str(tmp_path / folder / 'epoch_1.pth')
        runner = make(tmp_path / 'run', load_from=path, resume=True, **options)
        warnings = []
        runner.logger.warning = warnings.append
        runner.train()
        assert [text for text in warnings if text.startswith(why)], warnings
