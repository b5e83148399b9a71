# Copyright (c) The nl_plugins authors. All rights reserved.
"""CamVid: does the block of a decode head help, or just more layers?

    python tools/dataset_converters/camvid.py camvid.tar --out data/camvid
    python .dev_scripts/experiments/camvid_heads.py --seeds 0 1 2

One backbone is trained with an FCN head, then frozen, and every head is trained on its
features: the heads then differ in nothing but themselves, and an iteration takes
milliseconds. A seed draws a head's weights and its batches; all heads of a seed are
finished before the next begins. An interrupted call goes on after its last run.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from control import PointwiseBlock  # noqa: F401
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from PIL import Image
from runs import Runs
from torch import Tensor, nn
from tqdm import tqdm

import nl_plugins  # noqa: F401
from nl_plugins.segmentation import CamVidDataset

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/segmentation/fcn/fcn_r18-d16_1xb4-400_camvid-180x240.py'
SIZE = (180, 240)
HEADS = {
    'FCN': dict(type='FCNHead'),
    'control': dict(type='NonLocalHead', block=dict(type='PointwiseBlock')),
    'NL': dict(type='NonLocalHead', block=dict(type='NLBlock')),
    'SNL': dict(type='SNLHead'),
    'CGNL': dict(type='CGNLHead'),
    'RNL': dict(type='RNLHead'),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data', type=Path, default='data/camvid')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--heads', nargs='+', choices=HEADS, default=list(HEADS))
    parser.add_argument('--iterations', type=int, default=4000, help='of each head')
    parser.add_argument(
        '--backbone-iterations', type=int, default=4000, help='of the backbone'
    )
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--channels', type=int, default=64, help='of the heads')
    parser.add_argument(
        '--out', type=Path, default=ROOT / 'docs/en/findings/camvid_heads.json'
    )
    parser.add_argument(
        '--work-dir', type=Path, default='work_dirs/camvid_heads', help='of the weights'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    register_all_modules()
    init_default_scope('mmseg')
    # Initialisation says a line a weight.
    MMLogger.get_instance('mmengine').setLevel('WARNING')
    args.work_dir.mkdir(parents=True, exist_ok=True)
    setting = dict(
        iterations=args.iterations,
        backbone_iterations=args.backbone_iterations,
        batch_size=args.batch_size,
        channels=args.channels,
        size=SIZE,
        classes=list(CamVidDataset.METAINFO['classes']),
    )
    runs = Runs(args.out, setting)
    images, labels = load(args.data, 'train')
    backbone = trained_backbone(args, images, labels)
    flips = torch.cat([features(backbone, images), features(backbone, images.flip(3))])
    targets = torch.cat([labels, labels.flip(2)])[:, ::2, ::2].contiguous()
    images, truth = load(args.data, 'test')
    test = features(backbone, images)
    for seed in args.seeds:
        for name in args.heads:
            if runs.has(seed, name):
                continue
            torch.manual_seed(seed)
            config = model_config(args, name)
            head = MODELS.build(config['model']['decode_head'])
            head.init_weights()
            started = time.process_time()
            title = f'seed {seed} {name}'
            fit(head, logits_of, flips, targets, args, args.iterations, seed, title)
            seconds = time.process_time() - started
            head.eval()
            path = args.work_dir / f'{name}-{seed}.pth'
            save(path, config, backbone, head)
            iou = class_iou(head, test, truth)
            runs.add(
                dict(
                    seed=seed,
                    variant=name,
                    miou=round(100 * float(np.nanmean(iou)), 3),
                    iou=[round(100 * float(value), 3) for value in iou],
                    parameters=sum(p.numel() for p in head.parameters()),
                    train_cpu_seconds=round(seconds, 1),
                )
            )
            print(f'seed {seed} {name}: mIoU {runs.runs[-1]["miou"]}', flush=True)


def model_config(args: argparse.Namespace, name: str) -> Config:
    """The config of the whole network with this head."""
    config = Config.fromfile(CONFIG)
    head = config['model']['decode_head']
    head.update(channels=args.channels, **HEADS[name])
    config['model'].pop('auxiliary_head')
    return config


def load(data: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) in [0, 255], BGR as mmseg reads, and labels (N, H, W)."""
    images, labels = [], []
    for path in sorted((data / 'images' / part).glob('*.jpg')):
        size = SIZE[::-1]
        image = Image.open(path).convert('RGB').resize(size, Image.BILINEAR)
        label = Image.open(data / 'labels' / part / f'{path.stem}.png')
        images.append(np.asarray(image)[..., ::-1].transpose(2, 0, 1).copy())
        labels.append(np.asarray(label.resize(size, Image.NEAREST)))
    labels = torch.from_numpy(np.stack(labels)).long()
    labels[labels == CamVidDataset.UNLABELLED] = 255
    return torch.from_numpy(np.stack(images)), labels


def trained_backbone(
    args: argparse.Namespace, images: Tensor, labels: Tensor
) -> nn.Module:
    """The frozen network of an FCN head, trained once and kept in the work folder."""
    torch.manual_seed(0)
    model = MODELS.build(model_config(args, 'FCN')['model'])
    model.init_weights()
    path = args.work_dir / f'backbone_{args.backbone_iterations}.pth'
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        images = torch.cat([images, images.flip(3)])
        labels = torch.cat([labels, labels.flip(2)])[:, ::2, ::2].contiguous()
        number = args.backbone_iterations
        fit(model, whole_logits, images, labels, args, number, 0, 'backbone')
        torch.save(model.state_dict(), path)
    return model.eval().requires_grad_(False)


def normalised(model: nn.Module, images: Tensor) -> Tensor:
    preprocessor = model.data_preprocessor
    images = images.flip(1).float()  # the preprocessor's mean is of RGB
    return (images - preprocessor.mean) / preprocessor.std


def whole_logits(model: nn.Module, images: Tensor) -> Tensor:
    return model.decode_head(model.backbone(normalised(model, images)))


def logits_of(head: nn.Module, maps: Tensor) -> Tensor:
    return head([maps] * 4)


@torch.no_grad()
def features(model: nn.Module, images: Tensor) -> Tensor:
    """The last maps of the backbone, (N, C, h, w)."""
    parts = [model.backbone(normalised(model, part))[-1] for part in images.split(32)]
    return torch.cat(parts)


def fit(model, logits, inputs, labels, args, iterations, seed, title) -> None:
    """AdamW with a short warm-up and poly decay, as the CamVid configs of mmseg."""
    model.train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002, weight_decay=0.01)
    warm = max(iterations // 10, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            (step + 1) / warm
            if step < warm
            else (1 - (step - warm) / max(iterations - warm, 1)) ** 0.9
        ),
    )
    order = torch.empty(0, dtype=torch.long)
    for _ in tqdm(range(iterations), title, mininterval=10):
        if len(order) < args.batch_size:
            order = torch.randperm(len(inputs), generator=generator)
        index, order = order[: args.batch_size], order[args.batch_size :]
        answer = logits(model, inputs[index])
        answer = F.interpolate(answer, labels.shape[1:], mode='bilinear')
        loss = F.cross_entropy(answer, labels[index], ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def class_iou(head: nn.Module, maps: Tensor, truth: Tensor) -> np.ndarray:
    """Intersection over union of each class over all pixels of the set."""
    classes = head.num_classes
    confusion = torch.zeros(classes * classes, dtype=torch.long)
    for part, label in zip(maps.split(8), truth.split(8)):
        answer = F.interpolate(logits_of(head, part), label.shape[1:], mode='bilinear')
        guess, known = answer.argmax(1), label != 255
        pairs = label[known] * classes + guess[known]
        confusion += torch.bincount(pairs, minlength=classes * classes)
    confusion = confusion.view(classes, classes).double()
    hit = confusion.diag()
    return (hit / (confusion.sum(0) + confusion.sum(1) - hit)).numpy()


def save(path: Path, config: Config, backbone: nn.Module, head: nn.Module) -> None:
    """The whole network in half precision, and its config beside it."""
    state = {
        **{k: v for k, v in backbone.state_dict().items() if k.startswith('backbone.')},
        **{f'decode_head.{k}': v for k, v in head.state_dict().items()},
    }
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    meta = dict(dataset_meta=copy.deepcopy(CamVidDataset.METAINFO))
    torch.save(dict(state_dict=half, meta=meta), path)
    config.dump(str(path.with_suffix('.py')))


if __name__ == '__main__':
    main()
