# Copyright (c) The nl_plugins authors. All rights reserved.
"""A small training run with every kind of randomness.

``python tests/test_engine/runs.py FOLDER OPTIONS`` (JSON) trains it; started several
times by torchrun it is one distributed run.
"""

import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

import nl_plugins  # noqa: F401


class Noise(torch.utils.data.Dataset):
    """Samples that differ each time, by all three generators."""

    metainfo: dict = {}

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict:
        noise = [random.random(), np.random.rand(), torch.rand(()).item()]
        return dict(x=torch.tensor([index / 12, *noise]))


class Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)
        )

    def forward(self, x, mode):
        y = self.layers(x + random.random() + np.random.rand())
        return dict(loss=y.square().mean()) if mode == 'loss' else [y]


class Count(BaseMetric):
    default_prefix = 'test'

    def process(self, data_batch, data_samples) -> None:
        self.results.append(random.random())

    def compute_metrics(self, results) -> dict:
        return dict(count=len(results))


class Signal(Hook):
    """Sends a signal to this process in the middle of an iteration."""

    priority = 'LOWEST'

    def __init__(
        self, number: int, after: int, in_val: bool = False, to: str = 'process'
    ) -> None:
        self.number, self.after, self.in_val, self.to = number, after, in_val, to

    def _send(self) -> None:
        if self.to == 'group':
            os.killpg(os.getpgid(0), self.number)
        elif self.to == 'process' or os.environ['RANK'] == self.to:
            os.kill(os.getpid(), self.number)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if not self.in_val and runner.iter + 1 == self.after:
            self._send()

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        if self.in_val and runner.iter == self.after and batch_idx == 1:
            self._send()


def make(
    folder: Path,
    by_epoch: bool = True,
    save_by_epoch: bool | None = None,
    interval: int = 1,
    workers: int = 0,
    persistent: bool = False,
    sampler: str = 'DefaultSampler',
    accumulate: int = 1,
    val: bool = True,
    hook: bool = True,
    load_from: str | None = None,
    resume: bool = False,
    launcher: str = 'none',
    signalled: dict | None = None,
    **options,
) -> Runner:
    """A runner; 3 epochs of 6 batches, or 15 iterations."""

    def loader(shuffle: bool) -> dict:
        kind = sampler if shuffle else 'DefaultSampler'
        result = dict(
            dataset=Noise(),
            batch_size=2,
            num_workers=workers,
            persistent_workers=persistent and workers > 0,
            collate_fn=dict(type='default_collate'),
        )
        if kind == 'RandomSampler':  # torch's own, which draws from this process
            return result | dict(
                sampler=torch.utils.data.RandomSampler(result['dataset'])
            )
        return result | dict(sampler=dict(type=kind, shuffle=shuffle))

    make.count += 1
    torch.manual_seed(0)
    save_by_epoch = by_epoch if save_by_epoch is None else save_by_epoch
    train_cfg = (
        dict(by_epoch=True, max_epochs=3, val_interval=1)
        if by_epoch
        else dict(by_epoch=False, max_iters=15, val_interval=4)
    )
    hooks = [dict(type='EMAHook', momentum=0.1)]
    if hook:
        hooks.append(dict(type='RandomStateHook'))
    if signalled:
        hooks.append(Signal(**signalled))
    return Runner(
        Model(),
        work_dir=str(folder),
        train_dataloader=loader(True),
        train_cfg=train_cfg,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
            accumulative_counts=accumulate,
        ),
        param_scheduler=dict(type='LinearLR', by_epoch=False, end=10),
        val_dataloader=loader(False) if val else None,
        val_evaluator=[Count()] if val else None,
        val_cfg=dict() if val else None,
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook',
                by_epoch=save_by_epoch,
                interval=interval,
                **dict(max_keep_ckpts=-1) | options,
            )
        ),
        custom_hooks=hooks,
        load_from=load_from,
        resume=resume,
        launcher=launcher,
        randomness=dict(seed=0),
        experiment_name=f'{Path(folder).name}_{os.getpid()}_{make.count}',
        log_level='WARNING',
    )


make.count = 0


def main() -> None:
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    make(folder, **options).train()


if __name__ == '__main__':
    main()
