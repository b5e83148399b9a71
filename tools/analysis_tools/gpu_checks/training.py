# Copyright (c) The nl_plugins authors. All rights reserved.
"""CIFAR training from end to end: images a second, and what the loader costs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nl_plugins.analysis.memory import synchronize

from .section import HALF, Section, products

CONFIGS = Path(__file__).resolve().parents[3] / 'configs' / 'classification'
SNL = 'snl/preresnet20-snl1_1xb128-310e-device-augment_cifar10.py'
PLAIN = 'preresnet/preresnet20_1xb128-310e_cifar10.py'
BATCH = 128


def run(section: Section) -> None:
    """The same network with and without a block, in each precision."""
    images, labels = _images(section)
    kinds = ('fp32', 'tf32', 'bf16') if section.cuda else ('fp32',)
    plan = [(config, kind) for kind in kinds for config in (PLAIN, SNL)]
    for config, kind in plan:
        section.attempt(
            f'{config} {kind}', _train, section, config, kind, images, labels
        )
    section.attempt('loader', _loader, section, images, labels)
    _judge(section)


def _images(section: Section) -> tuple[Tensor, Tensor]:
    """CIFAR's, of an .npz; else noise, on which times do not depend."""
    if section.data:
        archive = np.load(section.data, allow_pickle=False)
        images, labels = archive['train_data'], archive['train_labels']
        if images.ndim > 1 and images.dtype == np.uint8:
            images = torch.from_numpy(images.reshape(-1, 3, 32, 32))
            section.rows['data'] = f'{section.data}, {len(images)} images'
            return images, torch.from_numpy(labels).long()
        section.errors.append(f'{section.data} holds no decoded images: noise instead')
    section.rows['data'] = 'noise'
    generator = torch.Generator().manual_seed(0)
    count = 512 if section.quick else 5120
    images = torch.randint(
        256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator
    )
    return images, torch.randint(10, (count,), generator=generator)


def _model(config: str, section: Section) -> tuple[nn.Module, Any]:
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(CONFIGS / config)
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    preprocessor = {**Config.fromfile(CONFIGS / SNL).data_preprocessor}
    model = MODELS.build(
        {**copy.deepcopy(cfg.model), 'data_preprocessor': preprocessor}
    )
    model.init_weights()
    return model.to(section.device).train(), cfg


def _wrapper(model: nn.Module, cfg: Any, kind: str) -> Any:
    from mmengine.optim import build_optim_wrapper

    cfg = copy.deepcopy(cfg.optim_wrapper)
    if kind in HALF:
        dtype = {'bf16': 'bfloat16', 'fp16': 'float16'}[kind]
        cfg.update(type='AmpOptimWrapper', dtype=dtype, loss_scale='dynamic')
    return build_optim_wrapper(model, cfg)


def _samples(labels: Tensor) -> list:
    from mmpretrain.structures import DataSample

    return [DataSample().set_gt_label(int(label)) for label in labels]


def _train(
    section: Section, config: str, kind: str, images: Tensor, labels: Tensor
) -> None:
    """Two epochs of ``train_step``, data on the device; the second is timed."""
    device = section.device
    model, cfg = _model(config, section)
    wrapper = _wrapper(model, cfg, kind)
    samples = [sample.to(device) for sample in _samples(labels)]
    inputs = images.to(device)
    row = {'config': Path(config).stem, 'precision': kind, 'losses': []}
    whole = range(0, len(inputs) - BATCH + 1, BATCH)
    with products(kind):
        for _ in range(2):
            order = torch.randperm(len(inputs)).tolist()
            total = torch.zeros((), device=device)
            synchronize(device)
            start = time.perf_counter()
            for first in whole:
                index = order[first : first + BATCH]
                batch = dict(
                    inputs=inputs[index], data_samples=[samples[i] for i in index]
                )
                data = model.data_preprocessor(batch, True)
                with wrapper.optim_context(model):
                    losses = model(**data, mode='loss')
                loss, _ = model.parse_losses(losses)
                wrapper.update_params(loss)
                total += loss.detach()
            synchronize(device)
            taken = time.perf_counter() - start
            row['losses'].append((total / len(whole)).item())
            if section.left() < taken:
                break
    row['images_per_second'] = len(whole) * BATCH / taken
    section.add('training', row)


def _loader(section: Section, images: Tensor, labels: Tensor) -> None:
    """Batches from host memory: mmengine's way, and the stacked one."""
    from mmengine.dataset import default_collate

    model, cfg = _model(SNL, section)
    wrapper = _wrapper(model, cfg, 'fp32')
    count = min(len(images), BATCH * (2 if section.quick else 20))
    samples = _samples(labels[:count])
    batches: dict[str, Callable] = {
        'pseudo_collate': lambda index: dict(
            inputs=[images[i] for i in index], data_samples=[samples[i] for i in index]
        )
    }
    batches['default_collate'] = lambda index: default_collate(
        [dict(inputs=images[i], data_samples=samples[i]) for i in index]
    )
    for name, make in batches.items():
        for what, use in (
            ('preprocess', lambda batch: model.data_preprocessor(batch, True)),
            ('train_step', lambda batch: model.train_step(batch, wrapper)),
        ):
            made = [
                # A copy: the labels of what was used lie on the device.
                copy.deepcopy(make(range(first, first + BATCH)))
                for first in range(0, count - BATCH + 1, BATCH)
            ]
            if section.cuda and name == 'default_collate':
                for batch in made:
                    batch['inputs'] = batch['inputs'].pin_memory()
            use(made.pop())
            synchronize(section.device)
            start = time.perf_counter()
            for batch in made:
                use(batch)
            synchronize(section.device)
            taken = (time.perf_counter() - start) / len(made)
            section.add('loader', {'collate': name, 'part': what, 'ms': taken * 1e3})


def _judge(section: Section) -> None:
    rows = section.rows.get('training', [])
    finite = [row for row in rows if all(np.isfinite(row['losses']))]
    section.verdict(
        'training is finite',
        len(finite) == len(rows) if rows else None,
        f'{len(finite)} of {len(rows)} runs',
    )
    speed = {(r['config'], r['precision']): r['images_per_second'] for r in rows}
    section.goal(
        'PreResNet-20 + SNL at most 15 % slower than without',
        [
            (f'{kind} {share:.2f}', share >= 1 / 1.15)
            for (config, kind), value in speed.items()
            if config == Path(SNL).stem and (Path(PLAIN).stem, kind) in speed
            for share in [value / speed[Path(PLAIN).stem, kind]]
        ],
    )
