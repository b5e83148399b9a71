# Copyright (c) The nl_plugins authors. All rights reserved.
"""CIFAR-10: in which stage does which block help?

    python .dev_scripts/experiments/cifar_places.py --data cifar10_subset.npz

PreResNet-20 with one block at the end of one stage, and without. All networks of a
seed are finished before the next begins. An interrupted call goes on after its last
run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from control import PointwiseBlock  # noqa: F401
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.utils import register_all_modules
from runs import Runs
from torch import Tensor
from tqdm import tqdm

import nl_plugins  # noqa: F401
import nl_plugins.classification  # noqa: F401
from nl_plugins.analysis import ablate

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = {
    'control': dict(type='PointwiseBlock'),
    'NL': dict(type='NLBlock', norm_cfg=dict(type='BN')),
    'SNL': dict(type='SNLBlock'),
    'NS': dict(type='NSBlock'),
    'CGNL': dict(type='CGNLBlock', groups=1),
}
NETWORKS = ['none', *(f'{b} stage {s}' for b in BLOCKS for s in (1, 2, 3))]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data', type=Path, default='data/cifar10_subset.npz')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument(
        '--networks', nargs='+', choices=NETWORKS, default=NETWORKS, metavar='NAME'
    )
    parser.add_argument('--epochs', type=int, default=30)
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--size', type=int, default=32, help='pixels of an image')
    parser.add_argument('--width', type=int, default=16, help='of the first stage')
    parser.add_argument(
        '--out', type=Path, default=ROOT / 'docs/en/findings/cifar_places.json'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    register_all_modules()
    init_default_scope('mmpretrain')
    # Initialisation says a line a weight.
    MMLogger.get_instance('mmengine').setLevel('WARNING')
    train, test = (load(args, part) for part in ('train', 'test'))
    setting = dict(
        epochs=args.epochs,
        batch_size=args.batch_size,
        size=args.size,
        width=args.width,
        images=[len(train[0]), len(test[0])],
    )
    runs = Runs(args.out, setting)
    for seed in args.seeds:
        for name in args.networks:
            if not runs.has(seed, name):
                runs.add(run(args, train, test, seed, name))
                print(runs.runs[-1], flush=True)


def load(args: argparse.Namespace, part: str) -> tuple[Tensor, Tensor]:
    """Images (N, 3, S, S), normalised, and labels."""
    with np.load(args.data) as file:
        images = torch.from_numpy(file[f'{part}_data']).view(-1, 3, 32, 32).float()
        labels = torch.from_numpy(file[f'{part}_labels'].astype(np.int64))
    images = (images / 255 - 0.473) / 0.251
    return F.adaptive_avg_pool2d(images, args.size), labels


def run(args: argparse.Namespace, train, test, seed: int, name: str) -> dict:
    """Train and test one network."""
    torch.manual_seed(seed)
    backbone = dict(type='PreResNet', depth=20, base_channels=args.width)
    if name != 'none':
        block, _, stage = name.split()
        insert = dict(after=f'layer{stage}.2', cfg=BLOCKS[block])
        backbone = dict(type='NonLocalBackbone', backbone=backbone, inserts=[insert])
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=4 * args.width),
        )
    )
    model.init_weights()
    started = time.process_time()
    fit(model, *train, args, seed, f'seed {seed} {name}')
    seconds = time.process_time() - started
    model.eval()
    found = dict(
        seed=seed,
        variant=name,
        top1=accuracy(model, *test),
        parameters=sum(p.numel() for p in model.parameters()),
        train_cpu_seconds=round(seconds, 1),
    )
    if name.split()[0] not in ('none', 'control'):
        found['ablated'] = {}
        for how in ('mean_row', 'identity', 'off'):
            with ablate(model, how):
                found['ablated'][how] = accuracy(model, *test)
    return found


def fit(model, images: Tensor, labels: Tensor, args, seed: int, title: str) -> None:
    """SGD of one cycle; crops of padded images and flips."""
    model.train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = args.epochs * (len(images) // args.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)
    pad = args.size // 8
    for _ in tqdm(range(args.epochs), title, mininterval=10):
        order = torch.randperm(len(images), generator=generator)
        for index in order.split(args.batch_size):
            if len(index) < args.batch_size:
                break
            x = F.pad(images[index], [pad] * 4)
            top, left = torch.randint(2 * pad + 1, (2,), generator=generator).tolist()
            x = x[..., top : top + args.size, left : left + args.size]
            flipped = torch.rand(len(x), generator=generator) < 0.5
            x = torch.where(flipped.view(-1, 1, 1, 1), x.flip(3), x)
            loss = F.cross_entropy(scores(model, x), labels[index])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
            optimizer.step()
            schedule.step()


def scores(model, images: Tensor) -> Tensor:
    return model.head(model.extract_feat(images))


@torch.no_grad()
def accuracy(model, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent."""
    hits = [
        scores(model, x).argmax(1) == y
        for x, y in zip(images.split(256), labels.split(256))
    ]
    return round(100 * torch.cat(hits).double().mean().item(), 3)


if __name__ == '__main__':
    main()
