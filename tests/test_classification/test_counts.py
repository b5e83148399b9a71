# Copyright (c) The nl_plugins authors. All rights reserved.
"""Parameters and multiply-adds of the CIFAR networks, as the originals count them.

The originals were instantiated and measured; their numbers stand here. MACs are those
of convolutions, linear layers and matrix products for one image, with the affinity as
a matrix. Where ours leaves out work that the original does, the test says which.
"""

from pathlib import Path

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS as ROOT_MODELS  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmpretrain.registry import MODELS  # noqa: E402

from nl_plugins.analysis.complexity import flop_counter  # noqa: E402
from nl_plugins.graph import force  # noqa: E402

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'classification'
POSITIONS = 32 * 32  # of layer1


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def mega_macs(model, formulation='dense'):
    # With gradients: the counter does not know the in-place products used without.
    with flop_counter() as counter:
        with force(formulation):
            model.eval()(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops() / 2e6


def build(backbone, num_classes, in_channels):
    init_default_scope('mmpretrain')
    head = dict(type='LinearClsHead', num_classes=num_classes, in_channels=in_channels)
    neck = dict(type='GlobalAveragePooling')
    return MODELS.build(
        dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
    )


def from_config(path, **head):
    cfg = Config.fromfile(CONFIGS / path)
    init_default_scope('mmpretrain')
    cfg.model.head.update(head)
    return MODELS.build(cfg.model)


@pytest.mark.parametrize(
    'depth, count, macs',
    [
        (20, 269_722, 40.55),
        (32, 464_154, 68.86),
        (44, 658_586, 97.17),
        (56, 853_018, 125.49),
        (110, 1_727_962, 252.89),
        (1202, 19_421_274, None),
    ],
)
def test_cifar_resnet(depth, count, macs):
    model = build(dict(type='CIFARResNet', depth=depth), 10, 64)
    assert parameters(model) == count
    if macs:
        assert mega_macs(model) == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize(
    'mode, block',
    [
        ('gaussian', 1_136),
        ('embedded-gaussian', 2_192),
        ('dot-product', 2_192),
        ('concatenation', 2_225),
    ],
)
def test_tea_resnet56(mode, block):
    model = from_config(f'nl/cifar-resnet56-nl1-{mode}_1xb128-200e-wd5e-4_cifar10.py')
    assert parameters(model) == 853_018 + block
    if mode == 'embedded-gaussian':
        assert mega_macs(model) == pytest.approx(128.11, rel=0.01)


@pytest.mark.parametrize(
    'depth, num_classes, count, macs',
    [
        (20, 1000, 341_048, 41.14),
        (20, 10, 276_698, None),
        (20, 100, 282_548, None),
        (56, 1000, 1_190_008, 131.77),
        (56, 10, 935_578, None),
        (56, 100, 958_708, None),
        (110, 1000, 2_024_632, 252.09),
        (110, 100, 1_793_332, None),
    ],
)
def test_preresnet(depth, num_classes, count, macs):
    model = build(
        dict(type='PreResNet', depth=depth), num_classes, 64 if depth == 20 else 256
    )
    assert parameters(model) == count
    if macs:
        assert mega_macs(model) == pytest.approx(macs, rel=0.01)


def unused_by_apnb(channels):
    """``conv_bn_dropout`` of the original: a convolution and a norm for nothing."""
    return 2 * channels * channels + 3 * channels


def saved(name, channels, n=POSITIONS):
    """Mega-MACs of the original that ours leaves out at n positions."""
    inner = channels // 2
    if name == 'anl':
        # The same keys computed twice, and values at all positions, then averaged.
        return (n * channels * inner + (n - 110) * channels * inner) / 1e6
    if name == 'cayley':
        # L L as a matrix product; ours applies A a second time.
        return (n**3 - n * n * (inner // 2)) / 1e6
    if name == 'ns':
        return n * inner * channels / 1e6  # w_2 applied twice
    return 0


BLOCKS = {
    # name: parameters and MACs at 20, then at 56
    'snl': (672, 58.57, 10_368, 209.36),
    'nl': (544, 58.44, 8_320, 207.27),
    'ns': (544, 58.57, 8_320, 209.36),
    'a2': (544, 58.44, 8_320, 207.27),
    'dnl': (560, 58.46, 8_384, 207.37),
    'cgnl': (544, 41.71, 8_320, 140.36),
    'cc': (545, 43.24, 8_321, 146.45),
    'anl': (992, 43.47, 14_720, 147.37),
    'cayley': (496, 1127.94, 7_552, 1263.45),
}


@pytest.mark.parametrize('depth', [20, 56])
@pytest.mark.parametrize('name', BLOCKS)
def test_preresnet_with_block(name, depth):
    data = 'cifar10' if depth == 20 else 'cifar100'
    model = from_config(
        f'{name}/preresnet{depth}-{name}1_1xb128-310e_{data}.py', num_classes=1000
    )
    delta, macs = BLOCKS[name][:2] if depth == 20 else BLOCKS[name][2:]
    channels = 16 if depth == 20 else 64
    if name == 'anl':
        delta -= unused_by_apnb(channels)
    base = {20: 341_048, 56: 1_190_008}[depth]
    assert parameters(model) == base + delta
    # These two are never a matrix in the original either.
    formulation = 'fast' if name in ('cgnl', 'cc') else 'dense'
    measured = mega_macs(model, formulation)
    assert measured == pytest.approx(macs - saved(name, channels), rel=0.01)


@pytest.mark.parametrize(
    'depth, stages, delta, macs',
    [
        (20, [2], 2_624, 43.89),
        (20, [3], 10_368, 42.06),
        (20, [1, 2, 3], 13_664, 62.24),
        (56, [2], 41_216, 150.64),
        (56, [3], 164_352, 143.30),
        (56, [1, 2, 3], 215_936, 239.77),
        (110, [1], 10_368, 329.69),
    ],
)
def test_snl_in_other_stages(depth, stages, delta, macs):
    backbone = dict(
        type='NonLocalBackbone',
        backbone=dict(type='PreResNet', depth=depth),
        inserts=[
            dict(after=[f'layer{s}.1' for s in stages], cfg=dict(type='SNLBlock'))
        ],
    )
    model = build(backbone, 1000, 64 if depth == 20 else 256)
    base = {20: 341_048, 56: 1_190_008, 110: 2_024_632}[depth]
    assert parameters(model) == base + delta
    assert mega_macs(model) == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize(
    'path, live, saved_by_original',
    [
        ('snl/preresnet20-snl1_1xb128-310e_cifar10.py', 341_720, 363_938),
        ('snl/preresnet56-snl1_1xb128-310e_cifar100.py', 1_200_376, 1_407_004),
    ],
)
def test_totals_of_the_training_script(path, live, saved_by_original):
    """The script attaches a stem and a classifier that no forward pass uses."""
    classes = 10 if 'cifar10.' in path else 100
    model = from_config(path, num_classes=1000)
    assert parameters(model) == live
    attached = 64 * 3 * 9 + (2048 + 1) * classes
    assert parameters(model) + attached == saved_by_original


@pytest.mark.parametrize(
    'name, block, delta, giga_macs',
    [
        ('snl', dict(type='SNLBlock'), 2_623_488, 4.642),
        (
            'nl',
            dict(type='ChebyshevNLBlock', order=1, zero_order=False),
            2_099_200,
            4.540,
        ),
        ('ns', dict(type='NSBlock'), 2_099_200, 4.642),
        ('a2', dict(type='A2Block', definition='snl'), 2_099_200, 4.540),
        ('dnl', dict(type='DNLBlock', definition='snl'), 2_100_224, 4.540),
        (
            'cgnl',
            dict(type='CGNLBlock', kernel='rbf', order=2, groups=1),
            2_099_200,
            4.501,
        ),
        ('cc', dict(type='CCBlock', reduction=2, recurrence=1), 2_099_201, 4.509),
        ('anl', dict(type='ANLBlock'), 3_676_160 - unused_by_apnb(1024), 4.522),
        ('cayley', dict(type='CayleyNLBlock'), 1_902_592, 4.499),
    ],
)
def test_blocks_of_snl_in_resnet50(name, block, delta, giga_macs):
    """R50 with each nl_type, less the 25,557,032 of the network itself."""
    module = ROOT_MODELS.build(dict(block, in_channels=1024)).to('meta').eval()
    assert parameters(module) == delta
    with flop_counter() as counter:
        with force('fast' if name in ('cgnl', 'cc') else 'dense'):
            module(torch.zeros(1, 1024, 14, 14, device='meta'))
    ours = counter.get_total_flops() / 2e9 + saved(name, 1024, 14 * 14) / 1e3
    assert 4.089 + ours == pytest.approx(giga_macs, rel=0.01)
    assert ours == pytest.approx(giga_macs - 4.089, rel=0.02)
