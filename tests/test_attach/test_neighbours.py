# Copyright (c) The nl_plugins authors. All rights reserved.
"""What else acts on a backbone: freezing by type, rates by layer, fusing, tracing."""

import importlib

import pytest
import torch
import torch.nn as nn

from nl_plugins.attach import NonLocalBackbone

from .networks import NL, NL3D, SHORT, blocks_of, build, features, wake

BN = dict(norm_cfg=dict(type='BN'))
_CSN = dict(
    type='ResNet3dCSN', depth=50, pretrained=None, base_channels=8, bn_frozen=True
)
_TWO = dict(num_stages=2, out_indices=(1,), strides=(1, 2), dilations=(1, 1))


def _frozen_by_type():
    yield 'mmaction', _CSN, dict(NL3D, **BN), (2, 3, 4, 32, 32)
    for scope in ('mmpretrain', 'mmseg'):
        cfg = dict(type='ResNet', depth=18, norm_eval=True, **_TWO)
        yield scope, cfg, dict(NL, **BN), (2, 3, 32, 32)
    tsm = dict(SHORT['mmaction-tsm'].backbone, depth=18, num_segments=4)
    yield 'mmaction', {**tsm, 'partial_bn': True}, dict(NL, **BN), (8, 3, 32, 32)


@pytest.mark.parametrize(
    'scope, backbone, block, shape', _frozen_by_type(), ids=['csn', 'mmp', 'mms', 'tsm']
)
def test_a_norm_frozen_by_type_leaves_the_block_learning(
    scope, backbone, block, shape, log
):
    pytest.importorskip(scope)
    insert = dict(after='layer2.0', cfg=block)
    net = build(
        scope, dict(type='NonLocalBackbone', backbone=backbone, inserts=[insert])
    )
    assert not any('frozen' in text for level, text in log if level == 'WARNING')
    net.init_weights()
    net.train()
    (block,) = blocks_of(net).values()
    assert all(p.requires_grad for p in block.parameters())
    assert all(module.training for module in block.modules())
    sum(out.square().mean() for out in features(net, torch.randn(shape))).backward()
    assert block.conv_out.bn.weight.grad.abs().sum() > 0
    net.eval()
    assert not any(module.training for module in block.modules())


_DECAYED = {
    'mmpretrain-swin': (
        dict(
            type='SwinTransformer',
            arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4]),
            window_size=4,
            pad_small_map=True,
        ),
        ['stages.1.blocks.0', 'stages.2', 'patch_embed'],
    ),
    'mmpretrain-convnext': (
        dict(type='ConvNeXt', arch=dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 32])),
        ['stages.2', 'downsample_layers.1'],
    ),
    **{
        f'mmpretrain-{name}': (
            dict(
                type=name,
                img_size=32,
                arch=dict(
                    embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=32
                ),
            ),
            ['layers.0', 'patch_embed'],
        )
        for name in ('VisionTransformer', 'BEiTViT')
    },
}


@pytest.mark.parametrize('name', _DECAYED)
def test_a_block_has_the_rate_of_the_module_that_it_follows(name):
    pytest.importorskip('mmpretrain')
    from mmpretrain.engine import LearningRateDecayOptimWrapperConstructor

    backbone, after = _DECAYED[name]
    model = build(
        'mmpretrain',
        dict(
            type='ImageClassifier',
            backbone=dict(
                type='NonLocalBackbone',
                backbone=backbone,
                inserts=[dict(after=after, cfg=NL)],
            ),
            head=dict(type='LinearClsHead', num_classes=2, in_channels=8),
        ),
    )
    constructor = LearningRateDecayOptimWrapperConstructor(
        dict(optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1)),
        dict(layer_decay_rate=0.5),
    )
    groups = constructor(model).optimizer.param_groups
    rates = {group['param_name']: group['lr'] for group in groups}
    assert len(rates) == len(list(model.parameters()))
    for block in blocks_of(model.backbone):
        host = f'backbone.{block.rpartition(".")[0]}.'
        of_host = [
            rate
            for key, rate in rates.items()
            if key.startswith(host) and 'nl_block' not in key
        ]
        own = {
            rate for key, rate in rates.items() if key.startswith(f'backbone.{block}')
        }
        assert own == {of_host[-1]}


# mmseg, mmaction and mmdet decide by the names of parameters.
_CONVNEXT = dict(
    type='mmpretrain.ConvNeXt',
    arch=dict(depths=[1, 1, 4, 1], channels=[8, 16, 24, 32]),
    gap_before_final_norm=False,
)
_SEGMENTER = dict(img_size=64, embed_dims=24, num_layers=2, num_heads=2, out_indices=1)
_MVIT = dict(embed_dims=16, num_layers=4, num_heads=1, downscale_indices=[1, 2, 3])
_BY_NAME = {
    **{
        f'{scope}-convnext-{kind}': (
            scope,
            _CONVNEXT,
            ['stages.2', 'stages.1.0', 'downsample_layers.1'],
            dict(decay_type=kind, num_layers=6),
        )
        for scope in ('mmseg', 'mmdet')
        for kind in ('layer_wise', 'stage_wise')
    },
    'mmseg-beit': (
        'mmseg',
        dict(_SEGMENTER, type='BEiT', qv_bias=True, init_values=0.1),
        ['layers.0', 'patch_embed'],
        dict(decay_type='layer_wise', num_layers=2),
    ),
    'mmseg-mae': (
        'mmseg',
        dict(_SEGMENTER, type='MAE', init_values=0.1),
        ['layers.0', 'patch_embed'],
        dict(decay_type='layer_wise', num_layers=2),
    ),
    'mmaction-mvit': (
        'mmaction',
        dict(type='MViT', arch=_MVIT, spatial_size=64, temporal_size=8),
        ['blocks.1', 'patch_embed'],
        dict(decay_type='layer_wise', num_layers=4),
    ),
    'mmaction-vit': (
        'mmaction',
        dict(
            type='VisionTransformer',
            img_size=64,
            embed_dims=24,
            depth=2,
            num_heads=2,
            num_frames=8,
        ),
        ['blocks.0', 'patch_embed'],
        dict(decay_type='layer_wise', num_layers=2),
    ),
}


@pytest.mark.parametrize('name', _BY_NAME)
def test_rates_by_the_names_of_parameters(name):
    scope, backbone, after, options = _BY_NAME[name]
    pytest.importorskip(scope)
    if backbone['type'].startswith('mmpretrain'):
        pytest.importorskip('mmpretrain')
    engine = importlib.import_module(f'{scope}.engine.optimizers')
    block = NL3D if scope == 'mmaction' else NL
    model = nn.Module()
    model.backbone = build(
        scope,
        dict(
            type='NonLocalBackbone',
            backbone=backbone,
            inserts=[dict(after=after, cfg=block)],
        ),
    )
    constructor = engine.LearningRateDecayOptimizerConstructor(
        dict(optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1)),
        dict(decay_rate=0.5, **options),
    )
    groups = constructor(model).optimizer.param_groups
    rates = {key: group['lr'] for group in groups for key in group['param_names']}
    assert rates.keys() == dict(model.named_parameters()).keys()
    for block in blocks_of(model.backbone):
        host = f'backbone.{block.rpartition(".")[0]}.'
        near = {rates[key] for key in rates if key.startswith(host)}
        assert len(near) == 1, block  # host and block


def test_rates_of_video_swin():
    """mmaction's constructor multiplies the rate of every name with a key in it."""
    pytest.importorskip('mmaction')
    from mmaction.engine.optimizers import SwinOptimWrapperConstructor

    model = nn.Module()
    model.backbone = build(
        'mmaction',
        dict(
            type='NonLocalBackbone',
            backbone=dict(
                type='SwinTransformer3D',
                arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4]),
            ),
            inserts=[dict(after='layers.2', cfg=NL3D)],
        ),
    )
    constructor = SwinOptimWrapperConstructor(
        dict(optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1)),
        dict(backbone=dict(lr_mult=0.1)),
    )
    groups = constructor(model).optimizer.param_groups
    assert len(groups) == len(list(model.parameters()))
    assert {group['lr'] for group in groups} == {0.1}


def test_a_host_that_fusing_would_replace_is_refused():
    pytest.importorskip('mmpretrain')
    net = build('mmpretrain', dict(type='ResNet', depth=18))
    with pytest.raises(ValueError, match="fusing the two .*; 'layer1.0' works"):
        NonLocalBackbone(net, [dict(after='layer1.0.conv2', cfg=NL)])


def test_fusing_keeps_the_blocks():
    from mmcv.cnn import fuse_conv_bn

    net = wake(SHORT['mmpretrain-resnet'].build()).eval()
    x = SHORT['mmpretrain-resnet'].input()
    with torch.no_grad():
        before = features(net, x)[-1]
        after = features(fuse_conv_bn(net), x)[-1]
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4)
    assert all(name for name in blocks_of(net))


def test_tracing_by_fx_says_what_to_do():
    body = nn.Sequential(nn.Conv2d(3, 8, 1), _Twice())
    net = NonLocalBackbone(body, [dict(after='1', cfg=NL)])
    with pytest.raises(NotImplementedError, match='leave efficient_conv_bn_eval out'):
        torch.fx.symbolic_trace(net)


class _Twice(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.skipif(
    not hasattr(torch.compiler, 'set_stance'), reason='torch before 2.6'
)
def test_attention_of_a_compiled_network():
    from nl_plugins.analysis import record_attention

    net = NonLocalBackbone(
        nn.Sequential(nn.Conv2d(3, 8, 1), _Twice()), [dict(after='1', cfg=NL)]
    )
    torch._dynamo.reset()
    fast, x = torch.compile(net.eval(), backend='eager'), torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        fast(x)
        with record_attention(fast) as maps:
            fast(x)
    assert len(maps) == 1
