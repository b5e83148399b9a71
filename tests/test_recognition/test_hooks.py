# Copyright (c) The nl_plugins authors. All rights reserved.
"""The fine-tuning modes of inception-I3D-NON-LOCAL train what they say."""

import copy
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmaction')

from mmengine.config import Config  # noqa: E402
from mmengine.registry import HOOKS, DefaultScope  # noqa: E402

import nl_plugins  # noqa: E402, F401

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = '*.nl_block'
# What the original froze by accident: every tensor of branches 1 to 3.
BRANCHES = 'backbone.mixed_*.branch_[123]'
FIRST_BLOCK = 'backbone.mixed_3c.nl_block'


@pytest.fixture(scope='module')
def untouched():
    """inception-I3D-NON-LOCAL for the 51 classes of HMDB51, optical flow."""
    from mmaction.registry import MODELS

    path = ROOT / 'configs/recognition/_base_/models/inception_i3d_nl_flow.py'
    cfg = Config.fromfile(path).model
    cfg.cls_head.num_classes = 51
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmaction'):
        return MODELS.build(cfg)


@pytest.fixture
def model(untouched):
    return copy.deepcopy(untouched)


TOTAL = 13_307_139
NL, CLASSIFIER = 989_552, 52_275


@pytest.mark.parametrize(
    'options, trainable',
    [
        (dict(), TOTAL),
        # Documented modes.
        (dict(train=[BLOCKS, 'cls_head']), NL + CLASSIFIER),
        (dict(norm='freeze_affine', norm_except=BLOCKS), None),
        # The original's accident, on request.
        (
            dict(norm='freeze_affine', norm_except=BLOCKS, freeze=BRANCHES),
            2_431_267,
        ),
        (
            dict(
                norm='freeze_affine',
                norm_except=BLOCKS,
                freeze=BRANCHES,
                freeze_before=FIRST_BLOCK,
            ),
            2_006_435,
        ),
    ],
    ids=['all', 'blocks_and_classifier', 'frozen_norms', 'accident', 'accident_from_8'],
)
def test_trainable_parameters(model, options, trainable):
    assert sum(p.numel() for p in model.parameters()) == TOTAL
    if trainable is None:
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm3d)]
        assert len(norms) == 57 + 2
        outside = [m for n, m in model.named_modules() if _is_outside_norm(n, m)]
        assert len(outside) == 57
        trainable = TOTAL - sum(2 * norm.num_features for norm in outside)
    hook = HOOKS.build(dict(type='TrainOnlyHook', **options))
    hook.apply(model)
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found == trainable


def _is_outside_norm(name: str, module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.BatchNorm3d) and 'nl_block' not in name


def test_freezing_before_the_first_block_keeps_all_that_follows(model):
    hook = HOOKS.build(dict(type='TrainOnlyHook', freeze_before=FIRST_BLOCK))
    hook.apply(model)
    frozen = {
        name.split('.')[1]
        for name, p in model.named_parameters()
        if not p.requires_grad
    }
    assert frozen == {
        'conv3d_1a_7x7',
        'conv3d_2b_1x1',
        'conv3d_2c_3x3',
        'mixed_3b',
        'mixed_3c',
    }
    assert model.backbone.mixed_3c.nl_block.theta.conv.weight.requires_grad
    assert model.backbone.mixed_4b.branch_1[0].conv.weight.requires_grad


def test_frozen_statistics_reach_every_norm_outside_the_blocks(model):
    hook = HOOKS.build(dict(type='TrainOnlyHook', norm='freeze', norm_except=BLOCKS))
    hook.apply(model)
    model.train()
    hook.before_train_iter(None, 0)
    training = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.BatchNorm3d) and module.training
    ]
    assert training == [
        'backbone.mixed_3c.nl_block.conv_out.bn',
        'backbone.mixed_4d.nl_block.conv_out.bn',
    ]


def test_partial_batch_norm_of_tsm():
    from mmaction.registry import MODELS

    path = ROOT / 'configs/recognition/_base_/models/rnl_tsm_r50.py'
    cfg = Config.fromfile(path).model
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmaction'):
        model = MODELS.build(cfg)
    free = ['backbone.conv1.bn', '*.rnl_block', '*.channel_gate']
    hook = HOOKS.build(dict(type='TrainOnlyHook', norm='freeze', norm_except=free))
    hook.apply(model)
    model.train()
    hook.before_train_iter(None, 0)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [norm.training for norm in norms] == [True] + [False] * 52
    assert [norm.weight.requires_grad for norm in norms] == [True] + [False] * 52
    others = (torch.nn.BatchNorm1d, torch.nn.BatchNorm3d)
    blocks = [m for m in model.modules() if isinstance(m, others)]
    assert len(blocks) == 6 and all(norm.training for norm in blocks)
