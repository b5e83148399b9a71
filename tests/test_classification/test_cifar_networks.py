# Copyright (c) The nl_plugins authors. All rights reserved.
"""CIFARResNet, PreResNet, the head and the neck."""

import pytest
import torch
from torch import nn

pytest.importorskip('mmpretrain')

from mmengine.registry import init_default_scope  # noqa: E402
from mmpretrain.registry import MODELS  # noqa: E402

from nl_plugins.classification import (  # noqa: E402
    CIFARResNet,
    LinearDropoutClsHead,
    NonLocalNeck,
    PreResNet,
)

X = torch.randn(2, 3, 32, 32)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


@pytest.mark.parametrize(
    'network, widths',
    [
        (CIFARResNet(8), (16, 32, 64)),
        (CIFARResNet(8, shortcut='B', base_channels=4), (4, 8, 16)),
        (PreResNet(20), (16, 32, 64)),
    ],
)
def test_shapes(network, widths):
    sizes = [tuple(out.shape) for out in type(network).forward(network, X)]
    assert sizes == [(2, widths[2], 8, 8)]
    assert network.out_channels == widths[2]
    network.out_indices = (0, 1, 2)
    sizes = [tuple(out.shape) for out in network(X)]
    assert sizes == [
        (2, width, 32 // 2**i, 32 // 2**i) for i, width in enumerate(widths)
    ]


def test_bottleneck_expansion():
    assert PreResNet(56, base_channels=4)(X)[0].shape == (2, 64, 8, 8)


def test_true_depths():
    """The names are the original's: 56 has 83 layers, 110 has 164."""
    for depth, true in ((20, 20), (56, 83), (110, 164)):
        network = PreResNet(depth, base_channels=1)
        convs = [
            name
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d)
            and 'downsample' not in name
            and name != 'fc1'
        ]
        assert len(convs) + 1 == true


def test_option_a_shortcut():
    """Every second row and column, zero channels on both sides, no parameters."""
    network = CIFARResNet(8)
    shortcut = network.layer2[0].shortcut
    assert not list(shortcut.parameters())
    x = torch.randn(2, 16, 7, 6)
    out = shortcut(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any()
    assert network.layer1[0].shortcut is None


def test_option_b_keys():
    keys = CIFARResNet(8, shortcut='B').state_dict()
    assert {'layer2.0.shortcut.0.weight', 'layer2.0.shortcut.1.running_var'} <= set(
        keys
    )
    assert keys['layer3.0.shortcut.0.weight'].shape == (64, 32, 1, 1)


def test_initialisation_is_fan_in():
    torch.manual_seed(0)
    network = CIFARResNet(8)
    network.init_weights()
    weight = network.layer2[0].conv1.weight  # fan in 16 * 9, fan out 32 * 9
    assert weight.std().item() == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.05)
    assert (network.bn1.weight == 1).all() and (network.bn1.bias == 0).all()


def test_block_sees_the_raw_residual_stream():
    """In the original the block stands before the third residual block of a stage."""
    inner = dict(type='PreResNet', depth=20)
    network = MODELS.build(
        dict(
            type='NonLocalBackbone',
            backbone=inner,
            inserts=[
                dict(after='layer1.1', cfg=dict(type='SNLBlock', zeros_init=False))
            ],
        )
    ).eval()
    seen = {}
    block = network.layer1[1].snl_block
    block.register_forward_hook(lambda m, args, out: seen.update(x=args[0], y=out))
    network.layer1[2].register_forward_hook(lambda m, args, out: seen.update(z=args[0]))
    network(X)
    assert torch.equal(seen['y'], seen['z']) and (seen['x'] < 0).any()
    hidden = network.layer1[0](network.stem(X))
    first = network.layer1[1]
    plain = type(first).forward(first, hidden)
    torch.testing.assert_close(seen['x'], plain)


@pytest.mark.parametrize('frozen', [-1, 0, 1, 3])
def test_frozen_stages(frozen):
    for network in (CIFARResNet(8, frozen_stages=frozen), PreResNet(20)):
        network.frozen_stages = frozen
        network.train()
        for name, parameter in network.named_parameters():
            stage = int(name[5]) if name.startswith('layer') else 0
            if name.split('.')[0] in network.tail_names:
                stage = 3
            assert parameter.requires_grad == (stage > frozen), name


def test_norm_eval():
    network = CIFARResNet(8, norm_eval=True).train()
    before = network.bn1.running_mean.clone()
    network(X)
    assert torch.equal(network.bn1.running_mean, before) and network.conv1.training


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: CIFARResNet(21), r'depth must be 6n \+ 2 .* got 21'),
        (lambda: CIFARResNet(2), r'6n \+ 2'),
        (
            lambda: CIFARResNet(20, shortcut='C'),
            r"shortcut must be one of \['A', 'B'\]",
        ),
        (
            lambda: CIFARResNet(20, out_indices=(3,)),
            'out_indices must be a sequence, each item one of',
        ),
        (lambda: CIFARResNet(20, frozen_stages=4), 'frozen_stages must be'),
        (lambda: PreResNet(83), r'one of \[20, 56, 110\], but got 83'),
        (
            lambda: LinearDropoutClsHead(10, 64, 1.0),
            r'dropout_ratio must be .* in \[0, 1\)',
        ),
    ],
)
def test_wrong_options(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_dropout_only_in_training():
    torch.manual_seed(0)
    head = LinearDropoutClsHead(num_classes=5, in_channels=400)
    features = (torch.ones(1, 400),)
    head.eval()
    torch.testing.assert_close(head(features), head.fc(features[0]))
    head.train()
    mask = head.dropout(features[0])
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    assert 0.4 < (mask == 0).float().mean() < 0.6


def test_thousand_outputs_for_ten_classes():
    """The SNL repository trains on labels 0..9 with 1000 outputs."""
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='CIFARResNet', depth=8),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearDropoutClsHead', num_classes=1000, in_channels=64),
        )
    )
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(label) for label in (0, 9)]
    model.loss(X, samples)['loss'].backward()
    assert model.head.fc.weight.grad[10:].any()


@pytest.mark.parametrize('pool', [True, False])
def test_neck(pool):
    neck = NonLocalNeck((8, 16), dict(type='SNLBlock'), levels=(1,), pool=pool)
    neck.init_weights()
    maps = (torch.randn(2, 8, 6, 6), torch.randn(2, 16, 3, 4))
    out = neck(maps)
    expected = [x.mean((2, 3)) if pool else x for x in maps]
    for got, want in zip(out, expected):
        torch.testing.assert_close(got, want)  # the new block is the identity
    assert [name for name in neck.state_dict() if name.startswith('level0')] == []
    single = NonLocalNeck(16, dict(type='NLBlock'), pool=pool)
    assert single(maps[1]).shape == ((2, 16) if pool else (2, 16, 3, 4))


def test_classifier_with_neck_trains():
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='CIFARResNet', depth=8),
            neck=dict(
                type='NonLocalNeck', in_channels=64, block=dict(type='CGNLBlock')
            ),
            head=dict(type='LinearDropoutClsHead', num_classes=10, in_channels=64),
        )
    )
    model.init_weights()
    model(X, mode='tensor').sum().backward()
    assert all(p.grad is not None for p in model.parameters())
