# Copyright (c) The nl_plugins authors. All rights reserved.
"""A run that is resumed equals one that was not interrupted, bit for bit."""

import gc
import random
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine')

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
    assert runner.iter == 15
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


WORKERS = [
    dict(workers=0),
    dict(workers=2),
    dict(workers=2, persistent=True),
]
LOOPS = [
    dict(by_epoch=True),
    dict(by_epoch=True, save_by_epoch=False, interval=2),
    dict(by_epoch=False, sampler='InfiniteSampler', interval=4),
    dict(by_epoch=True, save_by_epoch=False, interval=4, accumulate=3),
    dict(by_epoch=True, save_by_epoch=False, interval=3, sampler='RandomSampler'),
]


def name(options: dict) -> str:
    return ' '.join(f'{key}={value}' for key, value in options.items())


@pytest.mark.parametrize('workers', WORKERS, ids=name)
@pytest.mark.parametrize('loop', LOOPS, ids=name)
def test_resumed_equals_uninterrupted(tmp_path, loop, workers):
    options = loop | workers
    expected = trained(tmp_path / 'whole', **options)
    saved = sorted((tmp_path / 'whole').glob('*_[0-9]*.pth'))
    assert len(saved) >= 3
    for path in saved[:3]:
        found = trained(
            tmp_path / path.stem, load_from=str(path), resume=True, **options
        )
        assert differing(expected, found) == [], path.name
