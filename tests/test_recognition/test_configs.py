# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every recognition config builds: model, pipelines, optimiser, schedules."""

import json
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip('mmaction')

import torch  # noqa: E402
from mmaction.registry import (  # noqa: E402
    DATASETS,
    HOOKS,
    METRICS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
)
from mmengine.config import Config  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

import nl_plugins  # noqa: E402, F401

ROOT = Path(__file__).resolve().parents[2] / 'configs' / 'recognition'
CONFIGS = sorted(
    path for path in ROOT.rglob('*.py') if '_base_' not in path.relative_to(ROOT).parts
)
STAGES = ('train', 'val', 'test')
_models = {}


@pytest.fixture(autouse=True)
def mmaction_scope():
    with DefaultScope.overwrite_default_scope('mmaction'):
        yield


@cache
def load(path):
    return Config.fromfile(path)


def model_of(cfg):
    """The model on the meta device, one for configs with the same layers."""
    model = cfg.model.to_dict()
    head = dict(model['cls_head'], num_classes=400, dropout_ratio=0.5)
    backbone = model['backbone']
    for part in (
        head,
        backbone,
        backbone.get('backbone', {}),
        *backbone.get('inserts', []),
    ):
        part.pop('num_segments', None)
        part.pop('pretrained', None)
    key = json.dumps([head, backbone], sort_keys=True)
    if key not in _models:
        with torch.device('meta'):
            _models[key] = MODELS.build(cfg.model)
    return _models[key]


def datasets(cfg):
    for stage in STAGES:
        dataset = cfg[f'{stage}_dataloader'].dataset
        yield stage, dataset.get('dataset', dataset)


def test_there_are_configs():
    assert len(CONFIGS) > 30


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_builds(path):
    cfg = load(path)
    assert 'nl_plugins' in cfg.custom_imports.imports
    assert not cfg.custom_imports.allow_failed_imports
    assert cfg.default_scope == 'mmaction'
    model = model_of(cfg)
    with torch.device('meta'):
        head = MODELS.build(cfg.model.cls_head)
    assert head.in_channels == model.cls_head.in_channels

    if getattr(model.backbone, 'pretrained2d', False):
        inner = cfg.model.backbone.get('backbone', cfg.model.backbone)
        assert isinstance(inner.pretrained, str)  # else init_weights() fails

    for stage, dataset in datasets(cfg):
        built = DATASETS.build(dict(dataset, lazy_init=True))
        assert built.test_mode == (stage != 'train')
        for transform in dataset.pipeline:
            TRANSFORMS.build(transform)
    for stage in STAGES[1:]:
        evaluators = cfg[f'{stage}_evaluator']
        for metric in evaluators if isinstance(evaluators, list) else [evaluators]:
            METRICS.build(metric)
    for hook in cfg.get('custom_hooks', []):
        HOOKS.build(hook)

    wrapper_cfg = cfg.optim_wrapper.to_dict()
    constructor = dict(
        type=wrapper_cfg.pop('constructor', 'DefaultOptimWrapperConstructor'),
        paramwise_cfg=wrapper_cfg.pop('paramwise_cfg', None),
        optim_wrapper_cfg=wrapper_cfg,
    )
    wrapper = OPTIM_WRAPPER_CONSTRUCTORS.build(constructor)(model)
    found = [p for group in wrapper.optimizer.param_groups for p in group['params']]
    assert len({id(p) for p in found}) == len(found)
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable <= {id(p) for p in found}

    schedulers = cfg.param_scheduler
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        scheduler = dict(scheduler, optimizer=wrapper)
        if scheduler.get('convert_to_iter_based'):
            scheduler['epoch_length'] = 10
        PARAM_SCHEDULERS.build(scheduler)


STACKED = [path for path in CONFIGS if path.stem.startswith('tsm')]


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_tsm_stacks_frames_and_others_do_not(path):
    kind = 'Recognizer2D' if path in STACKED else 'Recognizer3D'
    assert load(path).model.type == kind


@pytest.mark.parametrize('path', STACKED, ids=lambda path: path.stem)
def test_frames_agree(path):
    """Pipelines, backbone, blocks and head of frame-stacked networks count alike."""
    cfg = load(path)
    wanted = cfg.model.cls_head.get('num_segments', 8)
    backbone = cfg.model.backbone
    counts = {backbone.get('backbone', backbone).get('num_segments', 8)}
    counts |= {insert.num_segments for insert in backbone.get('inserts', [])}
    for _, dataset in datasets(cfg):
        counts |= {t.num_clips for t in dataset.pipeline if 'num_clips' in t}
    assert counts == {wanted}


RNL = [path for path in CONFIGS if path.match('rnl/tsm_imagenet*')]


@pytest.mark.parametrize('path', RNL, ids=lambda path: path.stem)
def test_rnl_recipe(path):
    """The published launch settings."""
    cfg = load(path)
    kinetics = 'kinetics' in path.stem
    assert cfg.optim_wrapper.constructor == 'NonLocalTSMOptimWrapperConstructor'
    assert cfg.optim_wrapper.accumulative_counts == 4
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=20, norm_type=2)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum) == ('SGD', 0.02, 0.9)
    assert optimizer.weight_decay == (2e-4 if kinetics else 1e-3)
    assert cfg.train_cfg.max_epochs == (100 if kinetics else 50)
    assert cfg.param_scheduler[0].end == (5 if kinetics else 1)
    assert cfg.sync_bn == 'torch'
    assert cfg.train_dataloader.batch_size == 4
    head = cfg.model.cls_head
    assert head.dropout_ratio == (0.5 if kinetics else 0.8)
    assert head.num_classes == (400 if kinetics else 174)
    assert head.average_clips == 'score'
    types = [t.type for t in cfg.train_dataloader.dataset.pipeline]
    assert ('Flip' in types) == kinetics
    test = cfg.test_dataloader.dataset.pipeline
    assert dict(type='FullResThreeCrop', crop_size=256) in test


LONG = [path for path in CONFIGS if path.match('nl/i3d_kinetics400-pretrained*')]
SHORT = [path for path in CONFIGS if '400k' in path.stem and path not in LONG]


@pytest.mark.parametrize('path', LONG + SHORT, ids=lambda path: path.stem)
def test_recipe_of_the_non_local_paper(path):
    """The published solver; long clips start from I3D with its norms fixed."""
    cfg = load(path)
    long = path in LONG
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum, optimizer.nesterov) == (
        'SGD',
        0.9,
        True,
    )
    assert (optimizer.lr, optimizer.weight_decay) == (0.0025 if long else 0.01, 1e-4)
    assert cfg.optim_wrapper.paramwise_cfg.norm_decay_mult == 0
    assert cfg.train_cfg.max_iters == 400_000
    assert cfg.param_scheduler.milestones == [150_000, 300_000]
    assert cfg.auto_scale_lr.base_batch_size == (16 if long else 64)
    assert cfg.model.cls_head.dropout_ratio == 0.5

    frames, stride = map(
        int, path.stem.rpartition('-400k')[0].split('-')[-1].split('x')[:2]
    )
    for _, dataset in datasets(cfg):
        sampling = dataset.pipeline[1]
        assert (sampling.clip_len, sampling.frame_interval) == (frames, stride)
    test = cfg.test_dataloader.dataset.pipeline
    assert test[1].type == 'EvenStartSampleFrames' and test[1].num_clips == 10
    assert dict(type='ThreeCrop', crop_size=256) in test
    backbone = cfg.model.backbone.get('backbone', cfg.model.backbone)
    # The stem of 8x8 and 32x4 keeps all frames, that of 32x2 and 128x1 a quarter.
    assert backbone.get('conv1_stride_t', 2) == (1 if stride > 2 else 2)
    if long:
        hook = dict(type='TrainOnlyHook', norm='freeze', norm_except=())
        assert cfg.custom_hooks == [hook]
        assert backbone.pretrained is None
        start = f'i3d_imagenet-pretrained-r50_8xb8-{"32x2" if stride == 1 else "8x8"}x1'
        assert Path(cfg.load_from).stem.startswith(start)
        assert Path(cfg.load_from).stem in {path.stem for path in SHORT}


FINE_TUNING = [path for path in CONFIGS if path.match('rnl/tsm_kinetics400*')]
FLOW = [path for path in CONFIGS if path.match('inception_i3d/*hmdb51*')]


@pytest.mark.parametrize('path', FINE_TUNING, ids=lambda path: path.stem)
def test_recipe_of_fine_tuning(path):
    """TSM's README: 25 epochs of 64 clips, partial batch norm, dropout 0.8."""
    cfg = load(path)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum) == ('SGD', 1e-3, 0.9)
    assert cfg.train_cfg.max_epochs == 25
    assert cfg.param_scheduler.milestones == [10, 20]
    assert cfg.auto_scale_lr.base_batch_size == 64
    head = cfg.model.cls_head
    name = 'ucf101' if 'ucf101' in path.stem else 'hmdb51'
    classes = dict(hmdb51=51, ucf101=101)[name]
    assert (head.num_classes, head.dropout_ratio) == (classes, 0.8)
    (hook,) = cfg.custom_hooks
    assert (hook.type, hook.norm) == ('TrainOnlyHook', 'freeze')
    assert hook.norm_except == ['backbone.conv1.bn', '*.rnl_block', '*.channel_gate']
    assert Path(cfg.load_from).stem in {path.stem for path in RNL}
    types = [t.type for t in cfg.train_dataloader.dataset.pipeline]
    assert types.count('Flip') == 1
    for _, dataset in datasets(cfg):
        assert dataset.filename_tmpl == 'img_{:05}.jpg'
        assert name in dataset.ann_file and name in dataset.data_prefix.img


@pytest.mark.parametrize('path', FLOW, ids=lambda path: path.stem)
def test_recipe_of_inception_i3d(path):
    """The command of the README of inception-I3D-NON-LOCAL."""
    cfg = load(path)
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert optimizer == dict(
        type='SGD', lr=1e-3, momentum=0.9, dampening=0.9, weight_decay=1e-3
    )
    scheduler = cfg.param_scheduler
    assert (scheduler.type, scheduler.patience) == ('ReduceOnPlateauLR', 2)
    assert (scheduler.factor, scheduler.monitor) == (0.1, 'val/loss')
    assert cfg.train_cfg.max_epochs == 200
    assert cfg.train_dataloader.dataset.times == 10
    assert cfg.model.data_preprocessor.mean == [234.828] * 2
    assert cfg.model.data_preprocessor.std == [127.5] * 2
    for stage, dataset in datasets(cfg):
        window = dataset.pipeline[0]
        assert (window.type, window.clip_len) == ('WindowSampleFrames', 64)
        assert (
            window.mode == dict(train='random', val='spaced', test='consecutive')[stage]
        )
        types = [t.type for t in dataset.pipeline]
        assert ('FlowFlip' in types) == (stage == 'train') and 'Flip' not in types


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_batch_size_in_the_name(path):
    cfg = load(path)
    (gpus, batch) = next(
        part.split('-')[0].split('xb')
        for part in path.stem.split('_')
        if 'xb' in part.split('-')[0]
    )
    assert cfg.train_dataloader.batch_size == int(batch)
    if 'auto_scale_lr' in cfg:
        assert cfg.auto_scale_lr.base_batch_size == int(gpus) * int(batch)


def test_the_example_of_the_docs(tmp_path):
    page = (ROOT.parents[1] / 'docs/en/recognition.md').read_text(encoding='utf-8')
    example = page.split('```python\n')[1].split('```')[0]
    (tmp_path / 'config.py').write_text(example)
    model = model_of(load(tmp_path / 'config.py'))
    blocks = [name for name, _ in model.named_modules() if name.endswith('.nl_block')]
    assert len(blocks) == 5


def test_groups_of_the_released_network():
    """Tensors and elements a group, with true depthwise kernels of 116,736 weights."""
    path = next(path for path in RNL if 'r50-rnl_4xb4-dense-1x1x8' in path.stem)
    cfg = load(path)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    wrapper_cfg = cfg.optim_wrapper.to_dict()
    for constructor in (
        wrapper_cfg.pop('constructor'),
        'TSMOptimWrapperConstructor',
    ):
        wrapper = OPTIM_WRAPPER_CONSTRUCTORS.build(
            dict(
                type=constructor,
                paramwise_cfg=dict(fc_lr5=True),
                optim_wrapper_cfg=dict(optimizer=dict(wrapper_cfg['optimizer'])),
            )
        )(model)
        groups = wrapper.optimizer.param_groups
        total = sum(p.numel() for group in groups for p in group['params'])
        assert total == 28_392_657
        if 'name' in groups[0]:
            found = {
                g['name']: (len(g['params']), sum(p.numel() for p in g['params']))
                for g in groups
            }
    assert found == dict(
        first_conv_weight=(1, 9_408),
        first_conv_bias=(0, 0),
        normal_weight=(55, 23_708_160),
        normal_bias=(3, 769),
        bn=(108, 53_632),
        nl_weight=(15, 3_674_112),
        nl_bias=(20, 10_240 + 116_736),
        lr5_weight=(1, 819_200),
        lr10_bias=(1, 400),
    )
