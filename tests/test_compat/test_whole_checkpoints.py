# Copyright (c) The nl_plugins authors. All rights reserved.
"""Runs that are killed, disks that are full: a whole checkpoint is always found."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')

from mmengine.dataset import DefaultSampler  # noqa: E402
from mmengine.evaluator import BaseMetric  # noqa: E402
from mmengine.hooks import CheckpointHook  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from nl_plugins.compat import whole_checkpoints  # noqa: E402


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x, mode):
        if mode == 'loss':
            return dict(loss=self.layer(x).square().mean())
        return [self.layer(x)]


class Rising(BaseMetric):
    """A metric that gets better with every epoch, as ``up/score``."""

    epoch = 0

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        type(self).epoch += 1
        return {'up/score': self.epoch}


def make(folder: Path, epochs: int = 3, resume: bool = False, **hook) -> Runner:
    loader = dict(
        dataset=[dict(x=torch.ones(2))] * 2,
        batch_size=1,
        sampler=dict(type=DefaultSampler, shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    hook = dict(type='CheckpointHook', **(dict(interval=1, max_keep_ckpts=1) | hook))
    if 'save_best' in hook:
        hook['rule'] = 'greater'
    make.count += 1
    return Runner(
        Model(),
        work_dir=str(folder),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=[Rising()],
        val_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        default_hooks=dict(checkpoint=hook),
        custom_hooks=[dict(type='EMAHook')],
        experiment_name=f'{folder.name}_{make.count}',
        log_level='ERROR',
        resume=resume,
    )


make.count = 0


def load(runner: Runner) -> Runner:
    """As train() begins."""
    runner.call_hook('before_run')
    runner.load_or_resume()
    return runner


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is executed that a process would."""


@pytest.fixture
def steps(monkeypatch):
    """Every change of a name during saving, and the chance to die before it."""
    log, die_before = [], []

    def recorded(name, original, *paths):
        def call(*args, **kwargs):
            what = name, Path(args[paths[-1] if paths else 0]).name
            if die_before and die_before[0](what):
                raise Killed
            log.append(what)
            return original(*args, **kwargs)

        return call

    monkeypatch.setattr(os, 'replace', recorded('replace', os.replace, 1))
    monkeypatch.setattr(os, 'remove', recorded('remove', os.remove, 0))
    monkeypatch.setattr(
        whole_checkpoints.Path, 'unlink', lambda self, missing_ok=False: None
    )
    return log, die_before


def test_old_checkpoints_go_last(tmp_path, steps):
    log, _ = steps
    make(tmp_path, epochs=2, save_best='up/score').train()
    assert log == [
        ('replace', 'epoch_1.pth'),
        ('replace', 'last_checkpoint'),
        ('replace', 'best_up_score_epoch_1.pth'),
        ('replace', 'epoch_1.pth'),
        ('replace', 'last_checkpoint'),
        ('replace', 'epoch_2.pth'),
        ('replace', 'last_checkpoint'),
        ('remove', 'epoch_1.pth'),
        ('replace', 'best_up_score_epoch_2.pth'),
        ('replace', 'epoch_2.pth'),
        ('replace', 'last_checkpoint'),
        ('remove', 'best_up_score_epoch_1.pth'),
    ]
    left = {name for name in names(tmp_path) if not name.endswith('.py')}
    assert left == {'epoch_2.pth', 'best_up_score_epoch_2.pth', 'last_checkpoint'}


@pytest.mark.parametrize('moment', range(12))
def test_killed_at_every_step_of_saving(tmp_path, steps, moment, monkeypatch):
    """At most the work since the last checkpoint is lost, whenever it happens."""
    log, die_before = steps
    die_before.append(lambda what: len(log) == moment)
    try:
        make(tmp_path, epochs=2, save_best='up/score').train()
    except Killed:
        pass
    monkeypatch.undo()
    saved = [int(name[6]) for kind, name in log if name.startswith('epoch_')]
    resumed = load(make(tmp_path, epochs=2, resume=True, save_best='up/score'))
    assert resumed.epoch == max(saved, default=0)
    resumed = make(tmp_path, epochs=3, resume=True, save_best='up/score')
    resumed.train()
    assert resumed.epoch == 3
    assert not [name for name in names(tmp_path) if name.endswith('.unfinished')]
    left = {name for name in names(tmp_path) if name.startswith(('epoch', 'best'))}
    assert left >= {'epoch_3.pth', 'best_up_score_epoch_3.pth'}
    assert 'epoch_1.pth' not in left and 'epoch_2.pth' not in left


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == 'gone':
        path.unlink()
    elif how == 'empty':
        path.write_bytes(b'')
    elif how == 'truncated':
        path.write_bytes(content[: len(content) // 2])
    elif how == 'zeros':
        path.write_bytes(bytes(len(content)))
    else:
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 255])
        path.write_bytes(content[:middle] + flipped + content[middle + 1 :])


@pytest.mark.parametrize('how', ['gone', 'empty', 'truncated', 'zeros', 'flipped'])
def test_a_damaged_last_checkpoint(tmp_path, how, caplog):
    make(tmp_path, epochs=3, max_keep_ckpts=-1, save_best='up/score').train()
    damaged(tmp_path / 'epoch_3.pth', how)
    resumed = make(tmp_path, epochs=3, resume=True)
    warnings = []
    resumed.logger.warning = warnings.append
    load(resumed)
    assert resumed.epoch == 2
    (sentence,) = [text for text in warnings if 'newest whole' in text]
    state = 'is not there' if how == 'gone' else 'is damaged'
    first, second = tmp_path / 'epoch_3.pth', tmp_path / 'epoch_2.pth'
    assert sentence == (
        f'{first} {state}, but {second} is the newest whole checkpoint: using it.'
    )
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        damaged(tmp_path / name, how)
    with pytest.raises(ValueError, match=f'epoch_3.pth {state}, and no whole .* anew'):
        load(make(tmp_path, resume=True))


def test_no_checkpoint_is_the_beginning(tmp_path):
    runner = load(make(tmp_path, resume=True))
    assert runner.epoch == 0
    (tmp_path / 'last_checkpoint').write_text('')
    with pytest.raises(ValueError, match='last_checkpoint names nothing, and no whole'):
        load(make(tmp_path, resume=True))


def test_a_folder_that_was_moved(tmp_path):
    make(tmp_path / 'old', epochs=1).train()
    (tmp_path / 'old').rename(tmp_path / 'new')
    runner = load(make(tmp_path / 'new', resume=True))
    assert runner.epoch == 1


@pytest.mark.parametrize(
    'victim', ['epoch_2.pth', 'best_up_score_epoch_2.pth', 'last_checkpoint']
)
def test_a_full_disk_names_the_file(tmp_path, monkeypatch, victim):
    fsync, replace, seen = os.fsync, os.replace, []
    best = 'up/score' if victim.startswith('best') else None

    def full(descriptor):
        if victim in os.readlink(f'/proc/self/fd/{descriptor}'):
            if victim != 'last_checkpoint' or seen:
                raise OSError(errno.ENOSPC, 'No space left on device')
            seen.append(victim)
        return fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match=r'\[Errno 28\] .*' + victim) as error:
        make(tmp_path, epochs=2, save_best=best).train()
    assert error.value.filename == str(tmp_path / victim)
    monkeypatch.undo()
    assert os.replace is replace
    # The best one is saved after the last one.
    whole = ['epoch_2.pth', 'best_up_score_epoch_1.pth'] if best else ['epoch_1.pth']
    for name in whole:
        assert whole_checkpoints.damage_of(tmp_path / name) is None
    assert not [name for name in names(tmp_path) if name.endswith('.unfinished')]
    assert (tmp_path / 'last_checkpoint').read_text().endswith(whole[0])


def test_what_is_left_half_written_goes(tmp_path):
    (tmp_path / '.epoch_7.pth.unfinished').write_bytes(b'half')
    (tmp_path / 'mine.unfinished').write_bytes(b'mine')
    make(tmp_path, epochs=1).train()
    assert '.epoch_7.pth.unfinished' not in names(tmp_path)
    assert 'mine.unfinished' in names(tmp_path)


def test_a_checkpoint_removes_nothing_elsewhere(tmp_path):
    """Its message hub names the best one, which a better one replaces."""
    run, mine = tmp_path / 'run', tmp_path / 'mine.pth'
    make(run, epochs=1, save_best='up/score').train()
    checkpoint = torch.load(run / 'epoch_1.pth')
    info = checkpoint['message_hub']['runtime_info']
    assert info['best_ckpt'] == str(run / 'best_up_score_epoch_1.pth')
    info['best_ckpt'], info['superseded_ckpts'] = str(mine), ['../mine.pth', str(mine)]
    checkpoint['message_hub']['resumed_keys']['superseded_ckpts'] = True
    torch.save(checkpoint, run / 'epoch_1.pth')
    mine.write_bytes(b'mine')
    make(run, epochs=3, resume=True, save_best='up/score').train()
    assert mine.exists() and 'best_up_score_epoch_3.pth' in names(run)


def test_other_folders_and_interval_of_iterations(tmp_path):
    out = tmp_path / 'elsewhere'
    work_dir = tmp_path / 'run'
    make(work_dir, epochs=2, out_dir=str(out), by_epoch=False, interval=2).train()
    assert names(out / 'run') == {'iter_4.pth'}
    resumed = load(make(work_dir, resume=True))
    assert resumed.iter == 4


@pytest.mark.parametrize(
    'order, found',
    [
        (['epoch_1.pth', 'interrupted.pth'], 'interrupted.pth'),
        (['interrupted.pth', 'epoch_1.pth'], 'epoch_1.pth'),
        (['epoch_1.pth', 'epoch_2.pth'], 'epoch_2.pth'),
        # A folder that was copied: the times say nothing.
        (['epoch_2.pth', 'epoch_1.pth'], 'epoch_2.pth'),
        (['epoch_1.pth', 'best_acc_epoch_2.pth'], 'epoch_1.pth'),
        (['epoch_1.pth', 'resnet_50.pth'], 'epoch_1.pth'),
    ],
)
def test_a_later_checkpoint_than_the_last_one_named(tmp_path, order, found):
    """Written whole just before a kill, which came before ``last_checkpoint``."""
    for second, name in enumerate(order):
        torch.save({}, tmp_path / name)
        os.utime(tmp_path / name, (1000 + second, 1000 + second))
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / order[0]))
    path, sentence = whole_checkpoints.find_whole_checkpoint(tmp_path)
    assert path == str(tmp_path / found)
    assert (sentence is None) == (found == order[0])


def test_a_legacy_checkpoint_is_taken_as_whole(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    torch.save({}, path, _use_new_zipfile_serialization=False)
    assert whole_checkpoints.damage_of(path) is None
    assert whole_checkpoints.damage_of(tmp_path) is None


def test_repaired_once():
    """Applying it again, as a reloaded module does, changes nothing."""
    before = CheckpointHook._save_checkpoint_with_step
    import mmengine.hooks.checkpoint_hook as module

    whole_checkpoints.apply(module)
    assert CheckpointHook._save_checkpoint_with_step is before


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system cannot fork')
def test_processes_that_are_killed(root):
    """The script that kills many times, for two."""
    result = subprocess.run(
        [sys.executable, str(root / '.dev_scripts' / 'kill_runs.py')]
        + '--kills 2 --slow 1 --longest 0.3'.split(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert '2 kills, ' in result.stdout and ' 0 runs lost work' in result.stdout
    assert re.search('slow write .* half written yes +held', result.stdout)
