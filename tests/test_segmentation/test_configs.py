# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every segmentation config builds, has the right size and changes one thing."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402

FOLDER = Path(__file__).resolve().parents[2] / 'configs' / 'segmentation'
CONFIGS = sorted(
    path.relative_to(FOLDER).as_posix()
    for path in FOLDER.glob('[!_]*/*.py')
    if 'mini-' not in path.name
)
LARGE = [config for config in CONFIGS if '-d8' in config]

# Parameters beside the classifiers: spec of ResNetV1c-50-D8, of FCNHead and of the
# auxiliary head at 19 classes; 17 more bottlenecks of 256 in ResNet-101.
BACKBONE = dict(
    r50=23_527_264,
    r101=23_527_264 + 17 * (2 * 1024 * 256 + 9 * 256**2 + 2 * (256 + 256 + 1024)),
)
FCN, AUXILIARY = 23_605_779, 2_364_691
CLASSES = dict(cityscapes=19, ade20k=150, voc12aug=21, **{'coco-stuff164k': 171})
C, P = 512, 256
NORM = 2 * C
HEAD_BLOCK = {
    'fcn': 0,
    'nonlocal': 3 * (C + 1) * P + P * C + NORM,
    'snl': 5 * C * P + NORM,
    'cgnl': 3 * C * P + C * P // 8 + NORM,
    'rnl': (C + 1) * P + 9 * P + (P + 1) * C + NORM,
    'ns': 4 * C * P + NORM,
    'a2': 3 * (C + 1) * P + P * C + NORM,
    'gsnl': 6 * C * P + NORM,
}


def backbone_block(name, channels):
    """Parameters of a block on ``channels`` channels, inner width one half."""
    inner, norm = channels // 2, 2 * channels
    return dict(
        nl=3 * (channels + 1) * inner + inner * channels + norm,
        snl=5 * channels * inner + norm,
        cgnl=3 * channels * inner + channels * inner // 8 + norm,
        rnl=(channels + 1) * inner + 9 * inner + (inner + 1) * channels + norm,
    )[name]


def expected_parameters(name):
    method, backbone, extra, data = re.match(
        r'(\w+?)_(r50|r101)-d8(?:-(\S+?))?_\dxb\d-\d+k_(\S+)-\d+x\d+', name
    ).groups()
    count = BACKBONE[backbone] + FCN + AUXILIARY + HEAD_BLOCK[method]
    count += (CLASSES[data] - 19) * (C + 1 + 256 + 1)
    if extra:
        block, style = re.match(r'(\D+?)(-plugins|\d)$', extra).groups()
        if style == '-plugins':  # in the six bottlenecks of stage 3
            count += 6 * backbone_block(block, 1024)
        elif style == '1':
            count += backbone_block(block, 1024)
        else:
            count += 2 * backbone_block(block, 512) + 3 * backbone_block(block, 1024)
    return count


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def build(config):
    cfg = Config.fromfile(FOLDER / config)
    with torch.device('meta'):
        return cfg, MODELS.build(cfg.model)


def test_the_promised_configs_exist():
    promised = {
        f'{folder}/{method}_{backbone}-d8_4xb2-{iters}_cityscapes-{size}.py'
        for folder, method in [('nonlocal_net', 'nonlocal')]
        + [(method, method) for method in ('snl', 'cgnl', 'rnl', 'ns', 'a2', 'gsnl')]
        for backbone in ('r50', 'r101')
        for iters in ('40k', '80k')
        for size in ('512x1024', '769x769')
    }
    promised.add('snl/snl_r50-d8_1xb4-40k_cityscapes-512x1024.py')
    assert not promised - set(CONFIGS)
    for data in ('ade20k', 'voc12aug', 'coco-stuff164k'):
        assert sum(data in config for config in CONFIGS) >= 14


@pytest.mark.parametrize('config', LARGE)
def test_large_config(config):
    cfg, model = build(config)
    name = Path(config).stem
    assert sum(p.numel() for p in model.parameters()) == expected_parameters(name)
    assert cfg.default_scope == 'mmseg'
    assert 'nl_plugins' in cfg.custom_imports.imports
    assert not cfg.custom_imports.allow_failed_imports
    assert cfg.custom_hooks[0].type == 'SegDataCheckHook'
    gpus_batch, iters = re.search(r'_\dxb(\d)-(\d+)k_', name).groups()
    assert cfg.train_cfg.max_iters == int(iters) * 1000
    assert cfg.train_dataloader.batch_size == int(gpus_batch)
    height, width = re.search(r'-(\d+)x(\d+)$', name).groups()
    assert tuple(cfg.model.data_preprocessor.size) == (int(height), int(width))
    slides = (height, width) == ('769', '769')
    assert model.test_cfg.mode == ('slide' if slides else 'whole')
    assert model.align_corners == slides


@pytest.mark.parametrize(
    'head, block',
    [
        ('fcn', None),
        ('nonlocal', 'NLBlock'),
        ('snl', 'SNLBlock'),
        ('cgnl', 'CGNLBlock'),
    ],
)
def test_camvid_configs_differ_in_the_block_alone(head, block):
    folder = 'nonlocal_net' if head == 'nonlocal' else head
    name = f'{head}_r18-d16_1xb4-400_camvid-180x240.py'
    cfg, model = build(f'{folder}/{name}')
    fcn, plain = build('fcn/fcn_r18-d16_1xb4-400_camvid-180x240.py')
    assert cfg.train_cfg.max_iters == 400 and model.decode_head.num_classes == 11
    assert cfg.default_hooks.visualization.interval == 1
    assert cfg.default_hooks.visualization.type == 'SegVisualizationHook'
    differ = {key for key in cfg if cfg[key] != fcn[key]}
    assert differ == (set() if block is None else {'model'})
    ours, theirs = model.state_dict(), plain.state_dict()
    extra = set(ours) - set(theirs)
    assert set(theirs) <= set(ours)
    assert all(key.startswith('decode_head.nl_block.') for key in extra)
    assert bool(extra) == (block is not None)
    if block:
        assert type(model.decode_head.nl_block).__name__ == block


def test_the_originals_recipe():
    recipe = Config.fromfile(FOLDER / 'snl/snl_r50-d8_1xb4-40k_cityscapes-512x1024.py')
    optimizer = recipe.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum) == ('SGD', 0.01, 0.9)
    assert optimizer.weight_decay == 5e-4
    (schedule,) = recipe.param_scheduler
    assert (schedule.type, schedule.power, schedule.eta_min) == ('PolyLR', 0.9, 1e-4)
    assert schedule.end == recipe.train_cfg.max_iters == 40000
    assert recipe.train_cfg.val_interval == 4000
    model = recipe.model
    for part in (model.backbone, model.decode_head, model.auxiliary_head):
        assert part.norm_cfg.type == 'BN'
    assert model.decode_head.type == 'SNLHead'
    assert model.auxiliary_head.loss_decode.loss_weight == 0.4


@pytest.mark.parametrize(
    'config', [c for c in CONFIGS if 'r50' in c and '40k_cityscapes-512' in c]
)
def test_a_leaf_config_is_short(config):
    assert len((FOLDER / config).read_text().splitlines()) <= 30
