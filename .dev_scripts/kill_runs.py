# Copyright (c) The nl_plugins authors. All rights reserved.
"""Kill a training run at random moments and see what can be resumed.

    python .dev_scripts/kill_runs.py --kills 20 --slow 8
    NL_PLUGINS_COMPAT=0 python .dev_scripts/kill_runs.py    # what mmengine does itself

A small network is trained with mmengine's default of one kept checkpoint, the best one
and EMA. SIGKILL ends it, at any moment or, for ``--slow`` of the kills, while a slowed
write of a checkpoint is under way; then the run is resumed. Every resumed run must
begin at the last checkpoint that was complete, and old ones must not pile up. The exit
status is 1 otherwise.
"""

import argparse
import builtins
import json
import os
import random
import re
import select
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nl_plugins  # noqa: E402, F401, I001 - the repairs come first
import mmengine.fileio.backends.local_backend as local_backend  # noqa: E402
import torch  # noqa: E402
from mmengine.evaluator import BaseMetric  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from nl_plugins import files  # noqa: E402

PIECES = 20
PAUSE = 0.02  # seconds after each piece of a slowed write


class Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(256, 256)

    def forward(self, x, mode):
        if mode == 'loss':
            return dict(loss=self.layer(x).square().mean())
        return [x]


class Random(BaseMetric):
    """A score that is a new best one now and then."""

    default_prefix = 'test'

    def process(self, data_batch, data_samples) -> None:
        self.results.append(1)

    def compute_metrics(self, results) -> dict:
        return dict(score=random.random())


class Report(Hook):
    """Tells the parent where the run begins and which checkpoints are complete."""

    priority = 'LOWEST'

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def tell(self, **facts) -> None:
        os.write(self.pipe, (json.dumps(facts) + '\n').encode())

    def before_train(self, runner) -> None:
        self.tell(begins=runner.epoch)

    def after_train_epoch(self, runner) -> None:
        self.tell(saved=runner.epoch + 1)


class Slow:
    """A file that takes its time."""

    def __init__(self, file, report: Report) -> None:
        self._file, self._report = file, report

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def __enter__(self) -> 'Slow':
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def write(self, content: bytes) -> None:
        self._report.tell(writes=os.path.basename(self._file.name))
        size = len(content) // PIECES + 1
        for start in range(0, len(content), size):
            self._file.write(content[start : start + size])
            self._file.flush()
            time.sleep(PAUSE)


def train(folder: Path, pipe: int, slow: bool) -> None:
    """The run, in the process that is killed."""
    report = Report(pipe)
    random.seed(os.getpid())
    if slow:

        def slow_open(path, mode='r', *args, **kwargs):
            file = builtins.open(path, mode, *args, **kwargs)
            return Slow(file, report) if mode == 'wb' else file

        files.open = local_backend.open = slow_open
    loader = dict(
        dataset=[dict(x=torch.ones(256))] * 2,
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )
    Runner(
        Model(),
        work_dir=str(folder),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=[Random()],
        val_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        train_cfg=dict(by_epoch=True, max_epochs=10**6, val_interval=1),
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook',
                interval=1,
                max_keep_ckpts=1,
                save_best='test/score',
                rule='greater',
            )
        ),
        custom_hooks=[dict(type='EMAHook'), report],
        experiment_name=f'{folder.name}_{os.getpid()}',
        log_level='ERROR',
        resume=True,
    ).train()


def start(folder: Path, slow: bool) -> tuple[int, int]:
    """Process and pipe of a new run, which resumes what is in ``folder``."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    os.close(reading)
    with builtins.open(folder / 'errors.txt', 'a') as errors:
        os.dup2(errors.fileno(), 1)
        os.dup2(errors.fileno(), 2)
    try:
        train(folder, writing, slow)
    except BaseException as error:
        text = f'{type(error).__name__}: {error}'.splitlines()[0][:80]
        facts = dict(failed=text)
        os.write(writing, (json.dumps(facts) + '\n').encode())
    os._exit(1)


def follow(pipe: int, until: float, event: str | None = None) -> list[dict]:
    """What the run tells until a time (s, monotonic), or until ``event``."""
    facts, text = [], ''
    while (left := until - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left)[0]:
            break
        piece = os.read(pipe, 65536).decode()
        if not piece:
            break
        text += piece
        *lines, text = text.split('\n')
        facts += map(json.loads, lines)
        if any(event in fact or 'failed' in fact for fact in facts):
            break
    return facts


def kill_once(folder: Path, slow: bool, longest: float) -> dict:
    """Start, kill at a random moment, and say what happened."""
    process, pipe = start(folder, slow)
    facts = follow(pipe, time.monotonic() + 60, 'begins')
    if slow:
        # Not the first write, so that there is something to lose.
        facts += follow(pipe, time.monotonic() + 60, 'saved')
        facts += follow(pipe, time.monotonic() + 60, 'writes')
        wait = random.uniform(0, PIECES * PAUSE)
    else:
        wait = random.uniform(0, longest)
    facts += follow(pipe, time.monotonic() + wait)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    facts += follow(pipe, time.monotonic() + 1)  # what it had told before it died
    os.close(pipe)
    found = dict(
        begins=next((fact['begins'] for fact in facts if 'begins' in fact), None),
        failed=next((fact['failed'] for fact in facts if 'failed' in fact), None),
        saved=max([fact['saved'] for fact in facts if 'saved' in fact], default=0),
        mid_write=any(path.stat().st_size for path in folder.glob('.*.pth.unfinished')),
    )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--slow', type=int, default=8, help='of them in a slow write')
    parser.add_argument(
        '--longest', type=float, default=0.6, help='seconds to a kill at any moment'
    )
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(args.seed)
    kinds = [index < args.slow for index in range(args.kills)]
    random.shuffle(kinds)
    lost = mid_write = complete = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, slow in enumerate([*kinds, False]):
            found = kill_once(folder, slow, args.longest)
            fault = found['failed']
            if fault is None and found['begins'] < complete:
                fault = f'begins at {found["begins"]}, but {complete} was complete'
            # One may wait to be removed, its successor being complete.
            kept = [path.name for path in folder.glob('epoch_*.pth')]
            if fault is None and len(kept) > 2:
                fault = f'keeps {kept}'
            complete = max(complete, found['saved'], found['begins'] or 0)
            lost += fault is not None
            mid_write += found['mid_write']
            if index < args.kills:
                print(
                    f'kill {index + 1:2}  {"slow write" if slow else "any moment"}  '
                    f'begins at {found["begins"]}, complete {complete}, half written '
                    f'{"yes" if found["mid_write"] else "no":3}  {fault or "held"}',
                    flush=True,
                )
            else:
                print(f'at last: {fault or "resumed at " + str(found["begins"])}')
            if fault:
                # Begin anew: the folder is of no use any more.
                for path in folder.iterdir():
                    if re.match(r'\.?(epoch|best|last)', path.name):
                        path.unlink()
                complete = 0
    print(
        f'{args.kills} kills, {mid_write} with a checkpoint half written: '
        f'{lost} runs lost work that a checkpoint had held'
    )
    return 1 if lost else 0


if __name__ == '__main__':
    sys.exit(main())
