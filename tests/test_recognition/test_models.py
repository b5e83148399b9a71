# Copyright (c) The nl_plugins authors. All rights reserved.
"""Sizes, shapes, placement and errors of the video models."""

from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmaction')

from mmengine.config import Config  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

import nl_plugins  # noqa: E402, F401

MODELS_FOLDER = (
    Path(__file__).resolve().parents[2] / 'configs/recognition/_base_/models'
)


def model_of(name: str, **backbone) -> dict:
    """A model base; ``backbone`` changes its innermost backbone."""
    model = Config.fromfile(MODELS_FOLDER / f'{name}.py').model
    inner = model.backbone.get('backbone', model.backbone)
    if 'pretrained' in inner:
        inner.pretrained = None
    inner.update(backbone)
    return model


def build(cfg: dict, device: str = 'meta'):
    from mmaction.registry import MODELS

    with torch.device(device), DefaultScope.overwrite_default_scope('mmaction'):
        return MODELS.build(cfg)


@cache
def built(name: str):
    """The recogniser of a model base, on the meta device."""
    return build(model_of(name))


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


# Parameters at 400 classes. Blocks with a biased output convolution have 512 or 1024
# more than mmcv's, whose published sizes end in 7,840 (5 blocks) and 2,208 (10).
SIZES = {
    'rnl_tsm_r50': 28_392_657,
    'rnl_tsm_r50_16frames': 28_392_657,
    'rnl_tsm_r101': 47_384_785,
    'nl_tsm_r50': 31_682_000 + 4_096,
    'nl_i3d_r50': 35_401_936,
    'nl_i3d_r50_8x8': 35_401_936,
    'nl_i3d_r50_mmaction-stem': 35_401_936,
    'nl_i3d_r50_128x1': 35_401_936 - 2 * 4_096,
    'nl_i3d_r50_32x4': 35_401_936 - 2 * 4_096,
    'nl_i3d_r50_1block': 30_144_208 + 1_024,
    'nl_i3d_r50_10block': 42_752_208 + 8_192,
    'nl_i3d_r101': 59_108_560 + 4_096,
    'nl_i3d_r101_1block': 51_754_192 + 2_101_760,
    'nl_c2d_r50': 24_327_632 + (35_401_936 - 28_043_472),
    'nl_c2d_r50_1block': 26_429_392,
    'c2d_r50_tea1528_legacy': 26_429_392,
    'inception_i3d': 12_697_264,
    'inception_i3d_flow': 12_675_312,
    'inception_i3d_nl': 13_686_816,
    'inception_i3d_nl_flow': 13_664_864,
}


@pytest.mark.parametrize('name', SIZES)
@pytest.mark.filterwarnings('ignore:C2DResNet3d')
def test_size(name):
    assert count(built(name)) == SIZES[name]


def test_size_without_blocks():
    base = model_of('nl_i3d_r50')
    i3d = dict(base, backbone=base.backbone.backbone)
    assert count(build(i3d)) == 28_043_472
    base = model_of('nl_c2d_r50')
    assert count(build(dict(base, backbone=base.backbone.backbone))) == 24_327_632
    model = model_of('rnl_tsm_r50')
    model.cls_head.num_classes = 174
    assert count(build(model)) == 27_929_583
    model.backbone = model.backbone.backbone
    assert count(build(model)) == 23_864_558
    flow = model_of('inception_i3d_flow')
    flow.cls_head.num_classes = 51
    assert count(build(flow)) == 12_317_587


def test_non_local_blocks_add_7_79_percent_to_inception_i3d():
    added = SIZES['inception_i3d_nl'] - SIZES['inception_i3d']
    assert added == 989_552
    assert round(100 * added / SIZES['inception_i3d'], 2) == 7.79


@pytest.mark.parametrize(
    'path', sorted(MODELS_FOLDER.glob('*.py')), ids=lambda p: p.stem
)
@pytest.mark.filterwarnings('ignore:C2DResNet3d')
def test_every_model_base_builds(path):
    model = model_of(path.stem)
    backbone = built(path.stem).backbone
    counts = {'1block': 1, '10block': 10}
    inserted = getattr(backbone, 'inserted_blocks', ())
    if 'inserts' in model.backbone:
        expected = counts.get(path.stem.rpartition('_')[2])
        if path.stem.startswith('c2d_r50_tea1528'):
            expected = 1
        elif path.stem.startswith('rnl_tsm'):
            expected = 6  # five blocks and a gate
        elif path.stem.startswith('inception'):
            expected = 2
        assert len(inserted) == (expected or 5)
    else:
        assert not inserted


@pytest.mark.parametrize(
    'depth, shifted',
    [
        (50, [range(3), range(4), range(6), range(3)]),
        (101, [(0, 2), (0, 2), range(0, 23, 2), (0, 2)]),
        (152, [(0, 2), (0, 2, 4, 6), range(0, 36, 2), (0, 2)]),
    ],
)
def test_temporal_shift_is_where_the_original_has_it(depth, shifted):
    model = model_of('rnl_tsm_r50', depth=depth)
    backbone = build(model.backbone)
    keys = backbone.state_dict()
    for stage, blocks in enumerate(shifted, 1):
        found = [
            index
            for index in range(len(getattr(backbone, f'layer{stage}')))
            if f'layer{stage}.{index}.conv1.conv.net.weight' in keys
        ]
        assert found == list(blocks)


def test_rnl_blocks_are_where_the_release_has_them():
    backbone = built('rnl_tsm_r50').backbone
    assert backbone.inserted_blocks == (
        ('layer2.0', 'channel_gate'),
        ('layer2.0', 'rnl_block'),
        ('layer2.2', 'rnl_block'),
        ('layer3.0', 'rnl_block'),
        ('layer3.2', 'rnl_block'),
        ('layer3.4', 'rnl_block'),
    )
    kernels = [
        backbone.get_submodule(f'{host}.{name}').kernel_size
        for host, name in backbone.inserted_blocks[1:]
    ]
    assert kernels == [(3, 7, 7)] * 2 + [(3, 3, 3)] * 3
    gate = backbone.layer2[0].channel_gate
    assert gate.inner_channels == 256 and gate.norm.momentum == 0.01


@pytest.mark.parametrize(
    'name, frames, sizes',
    [
        ('nl_i3d_r50', 32, dict(maxpool=(8, 55, 55), pool2=(4, 55, 55))),
        ('nl_i3d_r50_8x8', 8, dict(maxpool=(8, 55, 55), pool2=(4, 55, 55))),
        ('nl_i3d_r50_mmaction-stem', 32, dict(maxpool=(8, 56, 56), pool2=(4, 56, 56))),
        ('nl_i3d_r50_128x1', 128, dict(maxpool=(32, 55, 55), pool2=(16, 55, 55))),
        ('nl_i3d_r50_32x4', 32, dict(maxpool=(32, 55, 55), pool2=(16, 55, 55))),
    ],
)
def test_stem(name, frames, sizes):
    backbone = build(model_of(name).backbone.backbone)
    seen = {}
    for layer in sizes:
        backbone.get_submodule(layer).register_forward_hook(
            lambda *args, layer=layer: seen.update({layer: tuple(args[2].shape[2:])})
        )
    out = backbone(torch.empty(1, 3, frames, 224, 224, device='meta'))
    assert seen == sizes
    assert out.shape == (1, 2048, sizes['pool2'][0], 7, 7)


def test_blocks_of_long_clips_are_grouped_in_res3():
    backbone = built('nl_i3d_r50_128x1').backbone
    blocks = {
        host: getattr(backbone.get_submodule(host), name)
        for host, name in backbone.inserted_blocks
    }
    assert {host: type(block).__name__ for host, block in blocks.items()} == {
        'layer2.1': 'GroupedNLBlock',
        'layer2.3': 'GroupedNLBlock',
        'layer3.1': 'NLBlock',
        'layer3.3': 'NLBlock',
        'layer3.5': 'NLBlock',
    }
    for host, block in blocks.items():
        assert block.norm_cfg is None and block.pool_first
        assert block.key_grid((16, 28, 28))[0] == (4 if 'layer2' in host else 16)


@pytest.mark.parametrize(
    'layer, shape',
    [
        ('conv3d_1a_7x7', (64, 32, 112, 112)),
        ('maxpool3d_3a_3x3', (192, 32, 28, 28)),
        ('mixed_3c', (480, 32, 28, 28)),
        ('maxpool3d_4a_3x3', (480, 16, 14, 14)),
        ('mixed_4d', (512, 16, 14, 14)),
        ('mixed_4f', (832, 16, 14, 14)),
        ('mixed_5c', (1024, 8, 7, 7)),
    ],
)
def test_layers_of_inception_i3d(inception, layer, shape):
    seen = []
    handle = inception.get_submodule(layer).register_forward_hook(
        lambda module, args, output: seen.append(tuple(output.shape[1:]))
    )
    inception(torch.empty(1, 3, 64, 224, 224, device='meta'))
    handle.remove()
    assert seen == [shape]


@pytest.fixture(scope='module')
def inception():
    return build(dict(type='InceptionI3D'))


def test_zero_padded_pool_keeps_zeros_at_the_border():
    from nl_plugins.recognition.inception_i3d import ZeroPadMaxPool3d

    pooled = ZeroPadMaxPool3d((3, 3, 3), (1, 1, 1))(-torch.ones(1, 1, 3, 3, 3))
    assert pooled[0, 0, 1, 1, 1] == -1 and pooled[0, 0, 0, 0, 0] == 0


def test_head_weights_frames_one_two_two_one():
    head = build(
        dict(type='InceptionI3DHead', num_classes=3, in_channels=5, window=(2, 1, 1)),
        'cpu',
    ).eval()
    x = torch.rand(2, 5, 8, 2, 3)
    frames = torch.tensor([1.0, 2, 2, 2, 2, 2, 2, 1]) / 14
    pooled = torch.einsum('nct,t->nc', x.mean((3, 4)), frames)
    wanted = F.linear(pooled, head.fc_cls.weight, head.fc_cls.bias)
    torch.testing.assert_close(head(x), wanted)


def test_head_dropout_is_of_the_pooled_map():
    head = build(
        dict(type='InceptionI3DHead', num_classes=2, in_channels=4, dropout_ratio=1.0),
        'cpu',
    ).train()
    found = head(torch.rand(1, 4, 3, 7, 7))
    torch.testing.assert_close(found, head.fc_cls.bias.expand(1, 2))


def test_head_names_the_map_that_is_too_small():
    head = build(dict(type='InceptionI3DHead', num_classes=3))
    with pytest.raises(ValueError, match=r'\(2, 7, 7\).*\(1, 7, 7\)'):
        head(torch.empty(1, 1024, 1, 7, 7, device='meta'))


def test_inception_i3d_names_wrong_channels(inception):
    with pytest.raises(ValueError, match=r'in_channels=3.*\(1, 2, 16, 64, 64\)'):
        inception(torch.empty(1, 2, 16, 64, 64, device='meta'))


def test_norm_eval_fixes_statistics():
    backbone = build(dict(type='InceptionI3D', norm_eval=True))
    assert backbone.train() is backbone
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    assert norms and not any(norm.training for norm in norms)


@pytest.mark.parametrize('name', ['inception_i3d_nl', 'nl_i3d_r50', 'rnl_tsm_r50'])
def test_blocks_are_the_identity_after_init_weights(name):
    torch.manual_seed(0)
    options = {} if name.startswith('inception') else dict(pretrained2d=False)
    backbone = build(model_of(name, **options).backbone, 'cpu')
    backbone.init_weights()
    backbone.init_weights()
    hosts = [backbone.get_submodule(host) for host, _ in backbone.inserted_blocks]
    assert hosts
    for host, child in backbone.inserted_blocks:
        block = backbone.get_submodule(f'{host}.{child}').eval()
        x = torch.randn(1, block.in_channels, 2, 4, 4)
        assert torch.equal(block(x), x)


@pytest.mark.filterwarnings('ignore:C2DResNet3d')
@pytest.mark.parametrize('legacy', [False, True])
def test_the_published_c2d_does_not_see_its_input_and_ours_does(legacy):
    torch.manual_seed(0)
    cfg = model_of('c2d_r50_tea1528_legacy', legacy=legacy, zero_init_residual=False)
    backbone = build(cfg.backbone.backbone, 'cpu').eval()
    with torch.no_grad():
        first, second = backbone(torch.randn(2, 3, 16, 64, 64))
    assert torch.equal(first, second) == legacy


def test_legacy_warns_and_says_why():
    with pytest.warns(UserWarning, match='does not depend on the input'):
        build(dict(type='C2DResNet3d', legacy=True))


def test_c2d_refuses_shallow_nets():
    with pytest.raises(ValueError, match=r'\[50, 101, 152\], but got 18'):
        build(dict(type='C2DResNet3d', depth=18))


def test_c2d_has_no_temporal_convolution():
    backbone = build(model_of('nl_c2d_r50').backbone.backbone)
    kernels = {
        tuple(m.kernel_size[:1])
        for m in backbone.modules()
        if isinstance(m, torch.nn.Conv3d)
    }
    assert kernels == {(1,)}


def test_neck_of_a_3d_recogniser():
    model = build(
        dict(
            type='Recognizer3D',
            backbone=dict(type='ResNet3d', depth=18, base_channels=4, inflate=0),
            neck=dict(
                type='NonLocalNeck',
                in_channels=32,
                block=dict(type='NLBlock', ndim=3, norm_cfg=dict(type='BN')),
            ),
            cls_head=dict(type='I3DHead', num_classes=3, in_channels=32),
        ),
        'cpu',
    )
    x = torch.randn(2, 1, 3, 8, 32, 32)
    model.train()
    found = model(x, mode='tensor', stage='head')
    assert found.shape == (2, 3)
    found.sum().backward()
    block = model.neck.level0.nl_block
    assert block.conv_out.bn.weight.grad is not None
    assert torch.equal(
        model.eval()(x, mode='tensor', stage='neck'),
        model(x, mode='tensor', stage='backbone'),
    )


def test_neck_of_a_2d_recogniser_returns_frames():
    model = build(
        dict(
            type='Recognizer2D',
            backbone=dict(
                type='ResNetTSM', depth=18, num_segments=4, out_indices=(2, 3)
            ),
            neck=dict(
                type='NonLocalNeck',
                in_channels=(256, 512),
                num_segments=4,
                block=dict(type='RNLBlock', ndim=3),
            ),
            cls_head=dict(
                type='TSMHead', num_classes=3, in_channels=512, num_segments=4
            ),
        ),
        'cpu',
    ).eval()
    x = torch.randn(2, 4, 3, 64, 64)
    features = model(x, mode='tensor', stage='backbone')[-1]
    assert torch.equal(model(x, mode='tensor', stage='neck'), features)
    wanted = model.cls_head(features, num_segs=4)
    torch.testing.assert_close(model(x, mode='tensor', stage='head'), wanted)


def test_neck_names_the_missing_out_indices():
    from nl_plugins.recognition import NonLocalNeck

    neck = NonLocalNeck(16, dict(type='NLBlock', ndim=3))
    with pytest.raises(ValueError, match='two or more out_indices'):
        neck([torch.rand(1, 4, 2, 4, 4)] * 8)


def test_grouped_block_sees_its_own_frames_only():
    from nl_plugins.recognition import GroupedNLBlock

    torch.manual_seed(0)
    options = dict(sub_sample=True, sub_sample_order='pool_conv', zeros_init=False)
    block = GroupedNLBlock(8, group_size=2, **options).double()
    x = torch.randn(3, 8, 6, 4, 5, dtype=torch.float64)
    plain = super(GroupedNLBlock, block).forward
    wanted = torch.cat([plain(frames) for frames in x.split(2, dim=2)], dim=2)
    torch.testing.assert_close(block(x), wanted)
    assert block.affinity(x).shape == (9, 2 * 20, 2 * 4)
    assert block.key_grid((6, 4, 5)) == (2, 2, 2)
    with pytest.raises(ValueError, match='group_size=2 does not divide the 5 frames'):
        block(x[:, :, :5])
    with pytest.raises(ValueError, match='group_size must be a positive integer'):
        GroupedNLBlock(8, group_size=0)
