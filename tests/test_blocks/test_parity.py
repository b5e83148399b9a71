# Copyright (c) The nl_plugins authors. All rights reserved.
"""Each block and variant equals its formula, forward and all gradients, in float64."""

import itertools

import pytest
import torch
import torch.nn as nn

from nl_plugins.blocks import BLOCKS, CGNLBlock

from . import reference as ref
from .checks import WIDTH, assert_same, build, cases, sample, value_and_gradients


def snl(block, x, grid, o):
    z = ref.chebyshev(1, False, True, o.get('sign', 1))
    return graph(block, x, o, z, 'sym_norm')


def chebyshev(block, x, grid, o):
    z = ref.chebyshev(
        o.get('order', 2), o.get('stable', False), o.get('zero_order', True)
    )
    return graph(block, x, o, z, 'sym_norm')


def graph(block, x, o, z, affinity):
    affinity = o.get('affinity', affinity)
    symmetric = o.get('symmetric', affinity == 'sym_norm')
    activation = o.get('act_cfg', True) is not None
    return ref.graph_filter(block, x, affinity, symmetric, z, activation)


def a2(block, x, grid, o):
    if 'definition' not in o:
        return ref.a2net(block, x)
    return graph(block, x, o, ref.plain, 'relu_raw')


def dnl(block, x, grid, o):
    if 'definition' in o:
        return graph(block, x, o, ref.disentangled_snl, 'softmax')
    mode = o.get('mode', 'embedded_gaussian')
    return ref.dnl(block, x, mode, (WIDTH // 2) ** -0.5, 0.05)


def cayley(block, x, grid, o):
    z = ref.cayley_polynomial
    if o.get('rational'):
        z = ref.cayley_rational(o.get('order', 1), o.get('zoom', 1.0))
    return graph(block, x, o, z, 'sym_norm')


def nl(block, x, grid, o):
    return ref.nl(
        block,
        x,
        grid,
        o.get('mode', 'embedded_gaussian'),
        block.inner_channels**-0.5,
        o.get('sub_sample', False),
        o.get('sub_sample_order') == 'pool_conv',
    )


def rnl(block, x, grid, o):
    return ref.rnl(
        block,
        x,
        grid,
        (o.get('kernel_size', 3),) * len(grid),
        o.get('activation', 'softmax'),
        o.get('use_norm', False),
        o.get('sub_sample', False),
    )


def arma(block, x, grid, o):
    z = ref.arma(
        o.get('num_iterations', 2), o.get('num_stacks', 1), o.get('nonlinear', True)
    )
    return graph(block, x, o, z, 'sym_norm')


def cgnl(block, x, grid, o):
    kernel, groups = o.get('kernel', 'dot'), o.get('groups', 8)
    scaled = o.get('use_scale', False)
    return ref.cgnl(block, x, kernel, o.get('order', 3), groups, scaled)


REFERENCES = {
    'A2Block': a2,
    'ANLBlock': lambda block, x, grid, o: ref.anl(
        block, x, grid, o.get('pool_sizes', (1, 3, 6, 8)), o.get('fusion', 'add')
    ),
    'ARMANLBlock': arma,
    'CCBlock': lambda block, x, grid, o: ref.cc(block, x, grid, o.get('recurrence', 2)),
    'CGNLBlock': cgnl,
    'CayleyNLBlock': cayley,
    'ChannelGate': lambda block, x, grid, o: ref.channel_gate(
        block, x, o.get('kind', 'gc')
    ),
    'ChebyshevNLBlock': chebyshev,
    'DNLBlock': dnl,
    'NLBlock': nl,
    'NSBlock': lambda block, x, grid, o: graph(
        block, x, o, ref.ns(o.get('sign', 1)), 'softmax'
    ),
    'RNLBlock': rnl,
    'SNLBlock': snl,
}

INPUTS = (
    'odd_sizes',
    'one_position',
    'batch_of_one',
    'strided',
    'channels_last',
    'zeros',
)


def make_input(kind: str, ndim: int) -> torch.Tensor:
    x = sample(ndim)
    if kind == 'one_position':
        return x[(..., *[slice(1)] * ndim)]
    if kind == 'batch_of_one':
        return x[:1]
    if kind == 'strided':
        return x.transpose(1, -1).contiguous().transpose(1, -1)[..., ::2]
    if kind == 'channels_last':
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if kind == 'zeros':  # positions of degree zero, and one sample of nothing else
        x[0, :, ..., 1] = 0
        x[1] = 0
    return x


def assert_parity(name, variant, kind, ndim, training, tolerance=1e-10):
    options = variant
    if isinstance(variant, str):
        options = BLOCKS[name].variants[variant]
    block = build(BLOCKS[name], variant, ndim).train(training)
    x = kind if isinstance(kind, torch.Tensor) else make_input(kind, ndim)
    grid = tuple(x.shape[2:])
    if options.get('sub_sample') and min(grid[-2:]) < 2:
        with pytest.raises(ValueError, match='must be at least 2'):
            block(x)
        return
    parameters = list(block.parameters())

    def dense(x):
        return REFERENCES[name](block, x.flatten(2), grid, options).reshape(x.shape)

    # The reference first: it reads running statistics and does not update them.
    expected = value_and_gradients(dense, x, parameters)
    actual = value_and_gradients(block, x, parameters)
    assert_same(actual, expected, tolerance)


@pytest.mark.parametrize('name, variant, ndim', cases())
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_formula(name, variant, ndim, training):
    assert_parity(name, variant, 'odd_sizes', ndim, training)


@pytest.mark.parametrize('name, variant, ndim', cases(ndims=(2,)))
@pytest.mark.parametrize('kind', INPUTS[1:])
def test_formula_on_odd_inputs(name, variant, ndim, kind):
    if kind == 'zeros' and (name, variant) == ('SNLBlock', 'unsymmetric'):
        # Neither norm nor bias: zeros arrive at the last ReLU, where the block has a
        # gradient to start with and the reference has none. Values are compared.
        x, block = make_input(kind, ndim), build(BLOCKS[name], variant, ndim)
        options, grid = BLOCKS[name].variants[variant], tuple(x.shape[2:])
        expected = REFERENCES[name](block, x.flatten(2), grid, options)
        torch.testing.assert_close(block(x), expected.reshape(x.shape))
        return
    if kind == 'zeros' and (name, variant) == ('DNLBlock', 'concatenation'):
        # Equal embeddings minus their mean are rounding, at the kink of the ReLU.
        kind = make_input('zeros', ndim)
        kind[1] = 2 * kind[0]
    assert_parity(name, variant, kind, ndim, training=False)


def grid(**choices) -> list[dict]:
    """Every combination of options."""
    return [
        dict(zip(choices, values)) for values in itertools.product(*choices.values())
    ]


AFFINITIES = grid(affinity=['softmax', 'relu_raw', 'sym_norm'], symmetric=[True, False])
MORE = [
    *(('A2Block', dict(definition='snl', **o)) for o in AFFINITIES),
    *(('ARMANLBlock', o) for o in AFFINITIES),
    *(('CayleyNLBlock', o) for o in AFFINITIES),
    *(('ChebyshevNLBlock', dict(order=3, **o)) for o in AFFINITIES),
    *(('DNLBlock', dict(definition='snl', num_units=3, **o)) for o in AFFINITIES),
    *(('NSBlock', dict(sign=-1, act_cfg=None, **o)) for o in AFFINITIES),
    *(('SNLBlock', dict(sign=-1, num_units=2, **o)) for o in AFFINITIES),
    *(
        ('CayleyNLBlock', dict(rational=True, zoom=2.0, **o))
        for o in AFFINITIES
        if o['affinity'] != 'relu_raw'
    ),
    *(
        ('RNLBlock', o)
        for o in grid(
            activation=['softmax', 'relu'],
            use_norm=[False, True],
            sub_sample=[False, True],
            kernel_size=[1, 5],
            norm_cfg=[None, dict(type='BN')],
        )
    ),
    *(
        ('CGNLBlock', dict(kernel='rbf', **o))
        for o in grid(order=[0, 1, 2], groups=[1, 2, 8], use_scale=[False, True])
    ),
    *(
        ('NLBlock', dict(sub_sample=True, **o))
        for o in grid(
            mode=['gaussian', 'embedded_gaussian', 'dot_product', 'concatenation'],
            sub_sample_order=['conv_pool', 'pool_conv'],
            norm_cfg=[None, dict(type='BN')],
            concat_bias=[True, False],
        )
    ),
    *(('ChebyshevNLBlock', dict(order=k, stable=True)) for k in (1, 3, 5)),
]


@pytest.mark.parametrize('name, options', MORE)
def test_formula_with_more_options(name, options):
    assert_parity(name, options, 'odd_sizes', 2, training=True)


ONE_MAP = grid(
    mode=['gaussian', 'embedded_gaussian', 'dot_product', 'concatenation'],
    sub_sample=[False, True],
    sub_sample_order=['conv_pool', 'pool_conv'],
    concat_bias=[True, False],
    act_cfg=[None, dict(type='ReLU')],
)


@pytest.mark.parametrize('options', ONE_MAP)
@pytest.mark.parametrize('ndim', [1, 2, 3])
def test_one_map_of_a_non_local_block(options, ndim):
    assert_parity('NLBlock', options, 'batch_of_one', ndim, training=False)


@pytest.mark.parametrize('options', ONE_MAP[::2])
@pytest.mark.parametrize('shape', [(2, 1024, 3, 2), (1, 512, 2, 2), (1, 256, 5, 4)])
def test_wide_maps_without_gradients(options, shape):
    torch.manual_seed(0)
    block = BLOCKS['NLBlock'](shape[1], **options).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=shape[1] ** -0.5)
    x = torch.randn(shape, dtype=torch.double)
    with torch.no_grad():
        actual = block(x)
        expected = nl(block, x.flatten(2), shape[2:], options)
    assert_same([actual], [expected.reshape(shape)])


@pytest.mark.parametrize('size', [(5, 6), (4, 4), (1, 1), (1, 5), (4, 1)])
@pytest.mark.parametrize('shared', [True, False])
def test_criss_cross_on_thin_maps(size, shared):
    x = torch.randn(2, WIDTH, *size, dtype=torch.double)
    assert_parity('CCBlock', dict(shared=shared, recurrence=3), x, 2, training=True)


def test_every_block_of_the_package_has_a_reference():
    ours = {n for n, b in BLOCKS.items() if b.__module__.startswith('nl_plugins.')}
    assert ours == set(REFERENCES)


def test_degree_zero_gives_zero_row_and_column():
    block, x = build(BLOCKS['SNLBlock'], 'default', 2), make_input('zeros', 2)
    affinity = block.affinity(x).dense()
    silent = [i for i in range(affinity.shape[1]) if i % x.shape[3] == 1]
    assert affinity[1].abs().max() == 0
    assert affinity[0, silent].abs().max() == 0
    assert affinity[0, :, silent].abs().max() == 0
    assert affinity[0].abs().max() > 0


@pytest.mark.parametrize('variant', ['rbf', 'rbf_snl', 'rbf_scaled'])
def test_cgnl_rbf_with_the_single_precision_factors_of_the_original(variant):
    options = {'order': 3, 'groups': 8, 'use_scale': False}
    options.update(CGNLBlock.variants[variant])
    block, x = build(CGNLBlock, variant, 2), sample(2)
    expected = ref.cgnl(block, x.flatten(2), **options, single=True)
    assert_same([block(x)], [expected.reshape(x.shape)], 1e-6)


@pytest.mark.parametrize('kernel_size', [(3, 7, 7), (1, 3, 5), (1, 1, 3)])
@pytest.mark.parametrize('activation', ['softmax', 'relu'])
def test_rnl_with_unequal_regions_and_wide_groups(kernel_size, activation):
    torch.manual_seed(0)
    block = BLOCKS['RNLBlock'](
        128, ndim=3, kernel_size=kernel_size, activation=activation
    ).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.1)
    x = torch.randn(1, 128, 2, 3, 4, dtype=torch.double)

    def dense(x):
        out = ref.rnl(
            block, x.flatten(2), (2, 3, 4), kernel_size, activation, *[False] * 2
        )
        return out.reshape(x.shape)

    parameters = list(block.parameters())
    assert_same(
        value_and_gradients(block, x, parameters),
        value_and_gradients(dense, x, parameters),
    )


@pytest.mark.parametrize('mode', ['embedded_gaussian', 'gaussian'])
def test_the_input_is_never_modified(mode):
    block, x = BLOCKS['DNLBlock'](WIDTH, mode=mode).double(), sample(2)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    'use_scale, scale', [(True, 8**-0.5), (False, 1), ('inverted', 8**0.5)]
)
@pytest.mark.parametrize('name', ['NLBlock', 'DNLBlock'])
def test_scale_of_the_logits(name, use_scale, scale):
    torch.manual_seed(0)
    block, x = BLOCKS[name](WIDTH, use_scale=use_scale).double(), sample(2)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.2)
    if name == 'NLBlock':
        expected = ref.nl(block, x.flatten(2), (5, 3), 'embedded_gaussian', scale, 0, 0)
    else:
        expected = ref.dnl(block, x.flatten(2), 'embedded_gaussian', scale, 0.05)
    assert_same([block(x)], [expected.reshape(x.shape)])


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('out_bias', [True, False])
def test_biases_of_the_other_implementations(bias, out_bias):
    """With a bias before the norm (tea, Alex, TSM, Caffe2), or without any (CGNL)."""
    block = BLOCKS['NLBlock'](
        WIDTH, bias=bias, out_bias=out_bias, norm_cfg=dict(type='BN')
    ).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.2)
    assert (block.g.conv.bias is not None) == bias
    assert (block.conv_out.conv.bias is not None) == out_bias
    block.eval()
    x = sample(2)
    expected = ref.nl(block, x.flatten(2), (5, 3), 'embedded_gaussian', 8**-0.5, 0, 0)
    assert_same([block(x)], [expected.reshape(x.shape)])


def test_weight_standardised_convolutions_keep_their_meaning():
    cfg = dict(type='ConvWS')
    block = BLOCKS['NLBlock'](WIDTH, conv_cfg=cfg, zeros_init=False).double()
    x = sample(2)
    g, out = block.g(x).flatten(2), block.conv_out
    y = ref.aggregate(block.affinity(x).dense(), g).reshape(2, -1, 5, 3)
    assert_same([block(x)], [x + out(y)])
