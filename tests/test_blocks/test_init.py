# Copyright (c) The nl_plugins authors. All rights reserved.
"""Parameters are drawn as the originals draw them; sizes are the published ones."""

import math

import pytest
import torch
import torch.nn as nn

from nl_plugins.blocks import (
    A2Block,
    ANLBlock,
    CayleyNLBlock,
    CCBlock,
    CGNLBlock,
    ChannelGate,
    ChebyshevNLBlock,
    DNLBlock,
    NLBlock,
    NSBlock,
    RNLBlock,
    SNLBlock,
)
from nl_plugins.blocks.base import INITS

BN = dict(type='BN')


def standard_deviation(init: str, fan_in: int, fan_out: int) -> float:
    return {
        'normal': 0.01,
        'mmcv': 0.01,
        'kaiming_fan_in': math.sqrt(2 / fan_in),
        'kaiming_fan_out': math.sqrt(2 / fan_out),
        'pytorch': 1 / math.sqrt(3 * fan_in),  # uniform within 1 / sqrt(fan_in)
    }[init]


@pytest.mark.parametrize('init', INITS)
@pytest.mark.parametrize('zeros_init', [True, False, 'conv'])
@pytest.mark.parametrize('norm_cfg', [None, BN])
def test_table_of_initialisations(init, zeros_init, norm_cfg):
    torch.manual_seed(0)
    block = NLBlock(
        128, init=init, zeros_init=zeros_init, norm_cfg=norm_cfg, out_bias=True
    )
    for _ in range(2):
        for layer in (block.theta, block.phi, block.g):
            expected = standard_deviation(init, 128, 64)
            assert layer.conv.weight.std().item() == pytest.approx(expected, rel=0.05)
            zero_bias = init in ('normal', 'mmcv', 'kaiming_fan_out')
            assert (layer.conv.bias.abs().max() == 0) == zero_bias
        out = block.conv_out
        if zeros_init == 'conv' or (zeros_init and norm_cfg is None):
            assert out.conv.weight.abs().max() == 0 == out.conv.bias.abs().max()
        else:
            drawn = 'kaiming_fan_out' if init == 'mmcv' and norm_cfg else init
            expected = standard_deviation(drawn, 64, 128)
            assert out.conv.weight.std().item() == pytest.approx(expected, rel=0.05)
        if norm_cfg is not None:
            assert out.norm.bias.abs().max() == 0
            if zeros_init is True:
                assert out.norm.weight.abs().max() == 0
            elif init == 'mmcv' and zeros_init is False:
                assert out.norm.weight.std().item() == pytest.approx(0.01, rel=0.3)
            else:
                assert (out.norm.weight == 1).all()
        for parameter in block.parameters():
            nn.init.constant_(parameter, 7)
        block.init_weights()


@pytest.mark.parametrize('init', ['pytorch', 'kaiming_fan_in'])
@pytest.mark.parametrize('order', [1, 3])
def test_terms_side_by_side_are_drawn_as_layers_of_their_own(init, order):
    torch.manual_seed(0)
    block = ChebyshevNLBlock(128, order=order, init=init)
    expected = standard_deviation(init, 64, 128)
    weight = block.conv_out.conv.weight
    assert weight.shape[1] == 64 * (order + 1)
    assert weight.std().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    'width, kernel_size, bound',
    [(512, (3, 7, 7), 0.011905), (1024, (3, 3, 3), 0.020212)],
)
def test_region_convolution_of_rnl(width, kernel_size, bound):
    torch.manual_seed(0)
    block = RNLBlock(width, ndim=3, kernel_size=kernel_size)
    weight = block.region.weight
    assert weight.shape == (width // 2, 1, *kernel_size)
    assert block.region.groups == width // 2
    assert 0.98 * bound < weight.max().item() <= bound + 1e-6
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_channel_gate():
    torch.manual_seed(0)
    gate = ChannelGate(64, ndim=3)
    assert gate.excite.weight.abs().max() == 0 == gate.excite.bias.abs().max()
    expected = standard_deviation('pytorch', 64, 32)
    assert gate.squeeze.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert gate.norm.momentum == 0.01


def test_unary_mask_keeps_pytorch_s_default():
    torch.manual_seed(0)
    mask = DNLBlock(256).conv_mask
    assert 0.04 < mask.weight.abs().max().item() <= 1 / 16
    assert mask.bias.abs().max() > 0


def test_init_cfg_overrides_the_block_s_own():
    cfg = dict(
        type='Constant', val=0.5, override=dict(name='g', type='Constant', val=2)
    )
    block = NLBlock(16, init_cfg=cfg)
    assert (block.g.conv.weight == 2).all()


def test_loaded_weights_win_over_initialisation(tmp_path):
    source = NLBlock(16)
    nn.init.normal_(source.conv_out.conv.weight)
    torch.save(source.state_dict(), tmp_path / 'block.pth')
    checkpoint = str(tmp_path / 'block.pth')
    block = NLBlock(16, init_cfg=dict(type='Pretrained', checkpoint=checkpoint))
    block.init_weights()
    assert torch.equal(block.conv_out.conv.weight, source.conv_out.conv.weight)


SNL = dict(definition='snl')


# Published or measured sizes of the originals' blocks, unused layers left out.
@pytest.mark.parametrize(
    'block, options, count',
    [
        (SNLBlock, {}, 672),
        (NSBlock, {}, 544),
        (A2Block, SNL, 544),
        (ChebyshevNLBlock, dict(order=1, zero_order=False), 544),
        (DNLBlock, SNL, 560),
        (CGNLBlock, dict(groups=1, kernel='rbf', order=2), 544),
        (CCBlock, dict(recurrence=1, reduction=2), 545),
        (CayleyNLBlock, {}, 496),
        (ANLBlock, {}, 992 - (32 * 16 + 16 + 32)),
    ],
)
def test_sizes_in_the_first_stage_of_preresnet20(block, options, count):
    assert sum(p.numel() for p in block(16, **options).parameters()) == count


@pytest.mark.parametrize(
    'block, width, options, count',
    [
        (RNLBlock, 512, dict(ndim=3, kernel_size=(3, 7, 7)), 301_568),
        (RNLBlock, 1024, dict(ndim=3, kernel_size=3), 1_065_984),
        (ChannelGate, 512, dict(ndim=3), 263_937),
        (NLBlock, 512, dict(ndim=3, norm_cfg=BN, out_bias=True), 526_592),
        (NLBlock, 1024, dict(ndim=3, norm_cfg=BN, out_bias=True), 2_101_760),
        (NLBlock, 480, dict(ndim=3, norm_cfg=BN, out_bias=True), 462_960),
        (NLBlock, 1024, dict(norm_cfg=BN, bias=False), 2_099_200),
        (CGNLBlock, 1024, {}, 1_640_448),
        (SNLBlock, 512, dict(sign=-1), 656_384),
        (SNLBlock, 1024, {}, 28_180_520 - 25_557_032),
        (DNLBlock, 1024, SNL, 27_657_256 - 25_557_032),
        (CGNLBlock, 1024, dict(groups=1), 27_656_232 - 25_557_032),
        (CCBlock, 1024, dict(recurrence=1, reduction=2), 27_656_233 - 25_557_032),
        (CayleyNLBlock, 1024, {}, 27_459_624 - 25_557_032),
    ],
)
def test_sizes_of_the_originals(block, width, options, count):
    assert sum(p.numel() for p in block(width, **options).parameters()) == count
