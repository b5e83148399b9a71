# Copyright (c) The nl_plugins authors. All rights reserved.
"""Whole networks, forward and training step: ``benchmark.py networks``.

Stock networks of mmaction2 and mmsegmentation with ``nl_plugins.accelerate`` and
without, and our networks against their dense form. Both take turns in one process on
the same input, the best of the repeats counts, ``--repeats`` rounds show the scatter.
"""

from __future__ import annotations

import argparse
import copy
import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from nl_plugins import accelerate
from nl_plugins.analysis.memory import peak_memory
from nl_plugins.blocks import BLOCKS
from nl_plugins.graph import force

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
MODES = ('embedded-gaussian', 'dot-product', 'gaussian')
TSM, I3D = (
    'recognition/tsm/tsm_imagenet-pretrained-r50-nl-{}_8xb16-1x1x8-50e_kinetics400-rgb',
    'recognition/i3d/i3d_imagenet-pretrained-r50-nl-{}_8xb8-32x2x1-100e_kinetics400-rgb',
)
DNL = 'dnlnet/dnl_r50-d8_4xb4-80k_ade20k-512x512'
NONLOCAL = 'nonlocal_net/nonlocal_r50-d8_4xb4-80k_ade20k-512x512'
IMAGE = (1, 3, 512, 512)
#: (package, config, input) of the codebases.
STOCK = [
    *(
        ('mmaction', config.format(mode), (clips * frames, *sizes))
        for mode in MODES
        for clips in (1, 4)
        for config, frames, sizes in [
            (TSM, 8, (3, 224, 224)),
            (I3D, 1, (3, 32, 224, 224)),
        ]
    ),
    ('mmseg', NONLOCAL, IMAGE),
    ('mmseg', DNL, IMAGE),
]
PRERESNET = 'classification/snl/preresnet20-snl1_1xb128-310e_cifar10.py'
#: (config, input) of ours; PreResNet-20 with every block besides.
OURS = [
    (
        'classification/nl/cifar-resnet56-nl1-embedded-gaussian_1xb128*.py',
        (32, 3, 32, 32),
    ),
    ('classification/cgnl/resnet50-cgnl1_8xb32-100e_in1k.py', (2, 3, 224, 224)),
    (
        'recognition/rnl/tsm_imagenet-pretrained-r50-rnl_4xb4-1x1x8-50e_sthv1-rgb.py',
        (16, 3, 224, 224),
    ),
    ('recognition/inception_i3d/*nl*.py', (1, 3, 16, 224, 224)),
]


@dataclass
class NetworkRow:
    """One network: the other form's time over ours, of each round, and memory."""

    name: str
    shape: tuple[int, ...]
    forward: list[float]
    step: list[float]
    memory: float


def rows(args: argparse.Namespace, best_times: Callable) -> Iterator[NetworkRow]:
    """The rows, one by one."""
    for name, shape, make, contexts in cases():
        row = f'{name} {"x".join(map(str, shape))}'
        if args.only and not any(part in row for part in args.only):
            continue
        torch.manual_seed(0)
        yield _measure(name, shape, make(), contexts, args, best_times)
        gc.collect()


def cases() -> Iterator[tuple]:
    """(name, input shape, how to build, contexts of ours and of the other)."""
    for package, config, shape in STOCK:
        root = Path(import_module(package).__file__).parent / '.mim/configs'
        path = root / f'{config}.py'
        yield Path(config).name, shape, lambda p=path: _build(p), (_with, _without)
    path = CONFIGS / PRERESNET
    for block in sorted(BLOCKS):
        if block != 'ChannelGate':  # which has no affinity
            yield (
                f'preresnet20 {block}',
                (128, 3, 32, 32),
                lambda p=path, b=block: _build(p, b),
                (_as_is, _dense),
            )
    for config, shape in OURS:
        path = sorted(CONFIGS.glob(config))[0]
        yield path.stem, shape, lambda p=path: _build(p), (_as_is, _dense)


def _build(path: Path, block: str | None = None) -> nn.Module:
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    config = Config.fromfile(path)
    init_default_scope(config.default_scope)
    cfg = copy.deepcopy(config.model)
    if block is not None:
        for insert in cfg.backbone.inserts:
            insert.cfg = dict(type=block, zeros_init=False)
    # No init_weights(): it would fetch the weights that a config names.
    cfg.backbone.pop('pretrained', None)
    backbone = MODELS.build(cfg.backbone)
    if 'decode_head' not in cfg:
        return backbone
    head = cfg.decode_head
    for option in ('num_classes', 'loss_decode'):
        head.setdefault(option, None)
    return nn.Sequential(backbone, MODELS.build(head))


def _with(run: Callable) -> None:
    accelerate.apply()
    run()


def _without(run: Callable) -> None:
    accelerate.undo()
    run()


def _as_is(run: Callable) -> None:
    run()


def _dense(run: Callable) -> None:
    with force('dense'):
        run()


def _measure(
    name: str,
    shape: tuple[int, ...],
    model: nn.Module,
    contexts: tuple[Callable, Callable],
    args: argparse.Namespace,
    best_times: Callable,
) -> NetworkRow:
    model = model.to(args.device)
    x = torch.randn(shape, device=args.device)

    def features() -> Tensor:
        out = model(x)
        while isinstance(out, (tuple, list)):
            out = out[-1]
        return out

    def forward() -> None:
        with torch.no_grad():
            features()

    def step() -> None:
        features().square().mean().backward()
        # Here: gradients from before would count in one of two measured memories.
        model.zero_grad(set_to_none=True)

    ours, other = contexts
    ratios: dict[str, list[float]] = {'forward': [], 'step': []}
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    for _ in range(args.repeats):
        for run in (forward, step):
            model.train(run is step)
            runs = {
                'ours': lambda run=run: ours(run),
                'other': lambda run=run: other(run),
            }
            found = best_times(runs, args.seconds, args.device)
            ratios[run.__name__].append(found['other'] / found['ours'])
    peaks = [peak_memory(lambda c=c: c(step), args.device) for c in contexts]
    return NetworkRow(name, shape, *ratios.values(), peaks[0] / peaks[1])


def table(found: list[NetworkRow]) -> str:
    """The rows in Markdown."""
    lines = [
        '| network | input | forward (rounds) | step (rounds) | memory of a step |',
        '|---' * 5 + '|',
    ]
    for row in found:
        cells = [
            f'{median(values):.2f}x ({", ".join(f"{v:.2f}" for v in values)})'
            for values in (row.forward, row.step)
        ]
        shape = 'x'.join(map(str, row.shape))
        lines.append(
            f'| {row.name} | {shape} | {cells[0]} | {cells[1]} | {row.memory:.2f}x |'
        )
    return '\n'.join(lines)
