# Copyright (c) The nl_plugins authors. All rights reserved.
"""State dicts of mmcv and mmseg load as they are and give the same numbers."""

from typing import get_args

import pytest
import torch
import torch.nn as nn
from mmcv.cnn.bricks.non_local import NonLocal1d, NonLocal2d, NonLocal3d

from nl_plugins.blocks import ANLBlock, CCBlock, DNLBlock, NLBlock
from nl_plugins.blocks.nl import Mode

from .checks import SIZES, WIDTH, assert_same, value_and_gradients

UPSTREAM = {1: NonLocal1d, 2: NonLocal2d, 3: NonLocal3d}


def randomise(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    module = module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    for name, buffer in module.named_buffers():
        if name.endswith('running_var'):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return module


def assert_equal_modules(upstream, ours, x, rename=lambda name: name):
    """Same output and gradients; ``rename`` maps an upstream key to ours."""
    theirs = dict(upstream.named_parameters())
    mine = dict(ours.named_parameters())
    expected = value_and_gradients(upstream, x, list(theirs.values()))
    actual = value_and_gradients(ours, x, [mine[rename(name)] for name in theirs])
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other.view_as(one), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('ndim', [1, 2, 3])
@pytest.mark.parametrize('mode', get_args(Mode))
@pytest.mark.parametrize('sub_sample', [False, True])
@pytest.mark.parametrize('use_scale, norm', [(True, None), (False, 'BN')])
def test_mmcv_non_local(ndim, mode, sub_sample, use_scale, norm):
    options = dict(mode=mode, sub_sample=sub_sample, use_scale=use_scale)
    norm_cfg = norm and dict(type=f'{norm}{ndim}d')
    upstream = randomise(UPSTREAM[ndim](WIDTH, norm_cfg=norm_cfg, **options))
    ours = NLBlock(WIDTH, ndim=ndim, norm_cfg=norm and dict(type=norm), **options)
    ours.double().load_state_dict(upstream.state_dict())
    assert list(ours.state_dict()) and set(ours.state_dict()) == set(
        upstream.state_dict()
    )
    x = torch.randn(2, WIDTH, *SIZES[ndim], dtype=torch.double)
    if mode == 'concatenation':
        # mmcv divides the output of a ReLU in place, which has no gradient.
        with torch.no_grad():
            assert_same([ours(x)], [upstream(x)])
    else:
        assert_equal_modules(upstream, ours, x)


@pytest.mark.parametrize('mode', get_args(Mode))
@pytest.mark.parametrize('norm', [None, 'BN'])
@pytest.mark.parametrize('zeros_init', [True, False])
def test_mmcv_initialisation(mode, norm, zeros_init):
    """Same zeros, same standard deviations."""
    torch.manual_seed(0)
    norm_cfg = norm and dict(type=norm)
    upstream = NonLocal2d(128, mode=mode, norm_cfg=norm_cfg, zeros_init=zeros_init)
    ours = NLBlock(128, mode=mode, norm_cfg=norm_cfg, zeros_init=zeros_init)
    for name, value in upstream.state_dict().items():
        if value.ndim > 1:
            mine = ours.state_dict()[name]
            torch.testing.assert_close(mine.std(), value.std(), rtol=0.3, atol=0)
        elif name.endswith('bias'):
            assert ours.state_dict()[name].abs().max() == 0


def mmseg_heads():
    pytest.importorskip('mmseg')
    return pytest.importorskip('mmseg.models.decode_heads')


# Not in gaussian mode, where mmseg subtracts the mean from the input itself.
@pytest.mark.parametrize(
    'mode', [mode for mode in get_args(Mode) if mode != 'gaussian']
)
@pytest.mark.parametrize('use_scale', [True, False])
def test_mmseg_disentangled_non_local(mode, use_scale):
    mmseg_heads()
    from mmseg.models.decode_heads.dnl_head import DisentangledNonLocal2d

    options = dict(mode=mode, use_scale=use_scale, temperature=0.05)
    upstream = randomise(DisentangledNonLocal2d(WIDTH, **options))
    ours = DNLBlock(WIDTH, **options).double()
    ours.load_state_dict(upstream.state_dict())
    x = torch.randn(2, WIDTH, *SIZES[2], dtype=torch.double)
    # mmseg rounds the temperature to float32.
    torch.testing.assert_close(ours(x), upstream(x.clone()), rtol=1e-6, atol=1e-6)


def test_mmcv_criss_cross_attention():
    mmseg_heads()
    from mmcv.ops.cc_attention import CrissCrossAttention

    upstream = randomise(CrissCrossAttention(WIDTH))
    upstream.gamma.scale.data.fill_(0.7)
    ours = CCBlock(WIDTH, recurrence=1).double()
    ours.load_state_dict(upstream.state_dict())
    names = {'query_conv': 'theta.conv', 'key_conv': 'phi.conv', 'value_conv': 'g.conv'}

    def rename(name):
        for theirs, mine in {**names, 'gamma.scale': 'gamma.weight'}.items():
            name = name.replace(theirs, mine)
        return name

    x = torch.randn(2, WIDTH, *SIZES[2], dtype=torch.double)
    assert_equal_modules(upstream, ours, x, rename)


def test_criss_cross_of_the_snl_repository_as_units():
    torch.manual_seed(0)
    ours = CCBlock(WIDTH, recurrence=2, shared=False, reduction=2)
    source = {}
    for name, value in ours.state_dict().items():
        name = name.replace('theta.conv', 'query_conv').replace('phi.conv', 'key_conv')
        name = name.replace('g.conv', 'value_conv').replace('gamma.weight', 'gamma')
        source[name] = torch.rand_like(value)
    source['units.1.gamma'] = torch.tensor([0.25])
    wrapped = nn.ModuleDict({'block': ours})
    wrapped.load_state_dict({f'block.{name}': value for name, value in source.items()})
    assert ours.units[1].gamma.weight.item() == 0.25
    assert torch.equal(ours.units[0].g.conv.weight, source['units.0.value_conv.weight'])


def test_a_wrong_key_is_still_unexpected():
    state = CCBlock(WIDTH).state_dict()
    state['gamma_.scale'] = torch.zeros(())
    with pytest.raises(RuntimeError, match='Unexpected key.*gamma_.scale'):
        CCBlock(WIDTH).load_state_dict(state)


def test_mmseg_pyramid_block_and_its_two_updates_of_the_norm():
    mmseg_heads()
    from mmseg.models.decode_heads.ann_head import APNB

    upstream = randomise(
        APNB(
            WIDTH,
            WIDTH // 2,
            WIDTH,
            query_scales=(1,),
            key_pool_scales=(1, 3, 6, 8),
            conv_cfg=None,
            norm_cfg=dict(type='BN'),
            act_cfg=dict(type='ReLU'),
        )
    )
    ours = ANLBlock(
        WIDTH,
        fusion='concat',
        key_bias=False,
        theta_norm_cfg=dict(type='BN', momentum=1 - (1 - 0.1) ** 2),
    ).double()
    names = {
        'stages.0.query_project.': 'theta.',
        'stages.0.value_project.': 'g.conv.',
        'stages.0.out_project.': 'conv_out.conv.',
        'bottleneck.': 'bottleneck.',
    }
    state = {}
    for name, value in upstream.state_dict().items():
        for theirs, mine in names.items():
            if name.startswith(theirs):
                state[mine + name[len(theirs) :]] = value.clone()
    ours.load_state_dict(state)
    x = torch.randn(3, WIDTH, *SIZES[2], dtype=torch.double)
    for training in (True, False):
        expected = upstream.train(training)(x)
        assert_same([ours.train(training)(x)], [expected])
        norm = upstream.stages[0].query_project.bn
        torch.testing.assert_close(ours.theta.bn.running_var, norm.running_var)
        torch.testing.assert_close(ours.theta.bn.running_mean, norm.running_mean)
