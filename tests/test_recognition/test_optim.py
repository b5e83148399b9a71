# Copyright (c) The nl_plugins authors. All rights reserved.
"""Nine parameter groups, each parameter in one of them, and the warm-up."""

import math
from itertools import chain

import pytest

pytest.importorskip('mmaction')

import torch  # noqa: E402
import torch.nn as nn  # noqa: E402
from mmaction.registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS  # noqa: E402
from mmcv.cnn.bricks import NonLocal3d  # noqa: E402

import nl_plugins  # noqa: E402, F401
from nl_plugins.blocks import BLOCKS  # noqa: E402

OURS = 'NonLocalTSMOptimWrapperConstructor'
STOCK = 'TSMOptimWrapperConstructor'
FACTORS = dict(  # lr, weight decay
    first_conv_weight=(1, 1),
    first_conv_bias=(2, 0),
    normal_weight=(1, 1),
    normal_bias=(2, 0),
    bn=(1, 0),
    nl_weight=(1, 1),
    nl_bias=(2, 0),
    lr5_weight=(5, 1),
    lr10_bias=(10, 0),
)


def optimise(model, constructor=OURS, **paramwise):
    cfg = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-3))
    return OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(type=constructor, optim_wrapper_cfg=cfg, paramwise_cfg=paramwise)
    )(model)


def groups(model, **paramwise):
    found = optimise(model, **paramwise).optimizer.param_groups
    return {group['name']: group for group in found}


class Network(nn.Module):
    """A network in miniature around one block."""

    def __init__(self, block):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3)
        self.conv2 = nn.Conv2d(16, 16, 3)
        self.norm = nn.BatchNorm2d(16)
        self.block = block
        self.fc_cls = nn.Linear(16, 5)


def variants():
    for name, block in sorted(BLOCKS.items()):
        ndim = 2 if 2 in block.ndims else block.ndims[0]
        for variant, options in sorted(block.variants.items()):
            yield pytest.param(block, dict(ndim=ndim) | options, id=f'{name}-{variant}')


@pytest.mark.parametrize('constructor', [OURS, STOCK])
@pytest.mark.parametrize('block, options', variants())
def test_every_parameter_is_in_one_group(block, options, constructor):
    model = Network(block(16, **options))
    found = optimise(model, constructor, fc_lr5=True).optimizer.param_groups
    ids = [id(p) for group in found for p in group['params']]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters()}


def test_factors():
    found = groups(Network(BLOCKS['RNLBlock'](16)))
    assert list(found) == list(FACTORS)
    for name, (lr, decay) in FACTORS.items():
        assert found[name]['lr'] == pytest.approx(0.02 * lr)
        assert found[name]['weight_decay'] == pytest.approx(1e-3 * decay)


def names(model, **paramwise):
    """Group of every parameter by its name."""
    found = groups(model, **paramwise)
    of = {id(p): name for name, group in found.items() for p in group['params']}
    return {name: of[id(p)] for name, p in model.named_parameters()}


def test_members():
    block = BLOCKS['RNLBlock'](16, ndim=3, kernel_size=(3, 3, 3))
    found = names(Network(block))
    assert found['conv1.weight'] == 'first_conv_weight'
    assert found['conv1.bias'] == 'first_conv_bias'
    assert found['conv2.weight'] == 'normal_weight'
    assert found['conv2.bias'] == 'normal_bias'
    assert found['norm.weight'] == found['norm.bias'] == 'bn'
    assert found['fc_cls.weight'] == 'lr5_weight'
    assert found['fc_cls.bias'] == 'lr10_bias'
    inside = {
        name: (parameter, found[f'block.{name}'])
        for name, parameter in block.named_parameters()
    }
    kernels = [
        g for p, g in inside.values() if p.ndim == 5 and p.shape[2:] == (3, 3, 3)
    ]
    assert kernels == ['nl_bias']
    for parameter, group in inside.values():
        if parameter.ndim == 5 and parameter.shape[2:] == (1, 1, 1):
            assert group == 'nl_weight'
    norms = [n for n, m in block.named_modules() if isinstance(m, nn.BatchNorm3d)]
    assert norms
    for name in norms:
        assert inside[f'{name}.weight'][1] == 'nl_weight'
        assert inside[f'{name}.bias'][1] == 'nl_bias'


def test_region_kernels_can_be_weights():
    block = BLOCKS['RNLBlock'](16, ndim=3, kernel_size=(3, 3, 3))
    found = names(Network(block), region_kernel_as_bias=False)
    kernels = {n for n, p in block.named_parameters() if p.shape[2:] == (3, 3, 3)}
    assert kernels and all(found[f'block.{n}'] == 'nl_weight' for n in kernels)


def test_gate_belongs_to_the_backbone():
    found = names(Network(BLOCKS['ChannelGate'](16, ndim=3)))
    inside = {group for name, group in found.items() if name.startswith('block.')}
    assert inside <= {'normal_weight', 'normal_bias', 'bn'}


def test_blocks_of_mmcv_are_non_local():
    found = names(Network(NonLocal3d(16)))
    inside = {group for name, group in found.items() if name.startswith('block.')}
    assert inside == {'nl_weight', 'nl_bias'}


def test_options():
    model = Network(nn.Identity())
    assert names(model, fc_lr5=False)['fc_cls.weight'] == 'normal_weight'
    assert names(model, fc_lr5=False)['fc_cls.bias'] == 'normal_bias'
    flow = groups(model, first_conv_lr5=True)
    assert flow['first_conv_weight']['lr'] == pytest.approx(0.1)
    assert flow['first_conv_bias']['lr'] == pytest.approx(0.2)


def test_frozen_and_shared_parameters_are_in_one_group():
    model = Network(nn.Conv2d(16, 16, 1))
    model.block.weight.requires_grad = False
    model.again = model.block
    found = names(model)
    assert found['block.weight'] == 'normal_weight'
    assert len(list(chain(*(g['params'] for g in groups(model).values())))) == len(
        list(model.parameters())
    )


def test_errors():
    with pytest.raises(ValueError, match="paramwise_cfg takes .* got 'fc_lr'"):
        optimise(Network(nn.Identity()), fc_lr=True)
    cfg = dict(type=OURS, optim_wrapper_cfg=dict(optimizer=dict(type='SGD', lr=0.1)))
    with pytest.raises(ValueError, match='needs weight_decay'):
        OPTIM_WRAPPER_CONSTRUCTORS.build(cfg)


@pytest.mark.parametrize('L, W, E', [(7, 5, 100), (1, 1, 4), (250, 1, 3), (3, 2, 50)])
def test_warm_up_and_cosine_equal_the_formula(L, W, E):
    base = 0.02
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=base)
    common = dict(optimizer=optimizer, convert_to_iter_based=True, epoch_length=L)
    schedulers = [
        PARAM_SCHEDULERS.build(cfg | common)
        for cfg in (
            dict(type='InclusiveLinearLR', start_factor=0.1, begin=0, end=W),
            dict(type='CosineAnnealingLR', T_max=E - W, begin=W, end=E),
        )
    ]
    for k in range(E * L):
        epoch = k / L
        if epoch < W:
            wanted = base / 10 + epoch / W * (base - base / 10)
        else:
            wanted = base / 2 * (1 + math.cos(math.pi * (epoch - W) / (E - W)))
        found = optimizer.param_groups[0]['lr']
        assert found == pytest.approx(wanted, abs=1e-12 * base), f'iteration {k}'
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def test_warm_up_needs_iterations():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match='convert_to_iter_based=True'):
        PARAM_SCHEDULERS.build(dict(type='InclusiveLinearLR', optimizer=optimizer))
