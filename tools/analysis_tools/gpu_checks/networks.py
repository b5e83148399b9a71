# Copyright (c) The nl_plugins authors. All rights reserved.
"""Whole networks of the configs: forward and backward, with and without blocks."""

from __future__ import annotations

import copy
import gc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .clock import mebibytes, milliseconds
from .section import HALF, Section, cast, formulated, products, sentence

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
NETWORKS = [
    (
        'classification/snl/preresnet20-snl1_1xb128-310e_cifar10.py',
        (128, 3, 32, 32),
    ),
    ('classification/nl/resnet50-nl1_8xb32-100e_in1k.py', (64, 3, 224, 224)),
    (
        'segmentation/snl/fcn_r50-d8-snl1_4xb2-40k_cityscapes-512x1024.py',
        (2, 3, 512, 1024),
    ),
    (
        'segmentation/nonlocal_net/fcn_r50-d8-nl5_4xb2-40k_cityscapes-512x1024.py',
        (2, 3, 512, 1024),
    ),
    (
        'recognition/nl/'
        'i3d_imagenet-pretrained-r50-nl5_8xb8-8x8x1-400k_kinetics400-rgb.py',
        (4, 1, 3, 8, 224, 224),
    ),
    (
        'recognition/rnl/tsm_imagenet-pretrained-r50-rnl_4xb4-1x1x8-50e_sthv1-rgb.py',
        (4, 8, 3, 224, 224),
    ),
]


def run(section: Section) -> None:
    """Images or clips a second of a training step of each network."""
    networks = NETWORKS[:1] if section.quick else NETWORKS
    kinds = ('fp32', 'bf16', 'tf32') if section.cuda else ('fp32',)
    for kind in kinds:
        for config, shape in networks:
            if section.quick:
                shape = (4, *shape[1:])
            section.attempt(f'{config} {kind}', _network, section, config, shape, kind)
            gc.collect()
    rows = section.rows.get('networks', [])
    section.goal(
        'whole networks: not below 0.97x of dense',
        [
            (f'{row["config"]} {row["precision"]} {ratio:.2f}x', ratio >= 0.97)
            for row in rows
            if isinstance(row.get('dense'), dict)
            for ratio in [row['dense']['step'] / row['ours']['step']]
        ],
    )


def _network(section: Section, config: str, shape: tuple, kind: str) -> None:
    row: dict[str, Any] = {
        'config': Path(config).stem,
        'shape': list(shape),
        'precision': kind,
    }
    for form in ('ours', 'without', 'dense'):
        if section.left() < 2:
            break
        try:
            model = _build(CONFIGS / config, blocks=form != 'without')
            row[form] = _measure(section, model, shape, kind, form)
        except Exception as error:
            if form == 'ours':
                raise
            row[form] = sentence(error)
        model = None
        gc.collect()
        if section.cuda:
            torch.cuda.empty_cache()
    section.add('networks', row)


def _build(path: Path, blocks: bool) -> nn.Module:
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    config = Config.fromfile(path)
    init_default_scope(config.default_scope)
    cfg = copy.deepcopy(config.model)
    if not blocks and cfg.backbone.type == 'NonLocalBackbone':
        cfg.backbone = cfg.backbone.backbone
    torch.manual_seed(0)
    # No init_weights(): it would fetch the weights that a config names.
    return MODELS.build(cfg)


def _measure(
    section: Section, model: nn.Module, shape: tuple, kind: str, form: str
) -> dict:
    device = section.device
    model = model.to(device).train()
    x = torch.randn(shape, device=device)

    def features() -> Tensor:
        with products(kind), cast(kind, device):
            out = model(x, mode='tensor')
        while isinstance(out, (tuple, list)):
            out = out[-1] if isinstance(out[-1], Tensor) else out[0]
        return out

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with formulated('dense') if form == 'dense' else nullcontext():
            out = features()
            with products(kind):
                out.float().square().mean().backward()

    taken = milliseconds(step, device, 0.4)
    assert kind not in HALF or features().requires_grad
    return dict(
        step=taken, per_second=shape[0] / taken * 1e3, mib=mebibytes(step, device)
    )
