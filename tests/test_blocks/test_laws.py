# Copyright (c) The nl_plugins authors. All rights reserved.
"""Blocks as filters of one graph: each is a special case of another."""

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from nl_plugins.blocks import (
    A2Block,
    ARMANLBlock,
    CayleyNLBlock,
    CCBlock,
    ChebyshevNLBlock,
    DNLBlock,
    NLBlock,
    NSBlock,
    RNLBlock,
    SNLBlock,
)

from .checks import WIDTH, assert_same, sample


def draw(block, **options):
    torch.manual_seed(0)
    module = block(WIDTH, **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module


def weights(module) -> list[Tensor]:
    return list(module.conv_out.conv.weight.data.split(WIDTH // 2, dim=1))


def copy_with(source, target, *terms: Tensor):
    """``target`` with the layers of ``source`` and other weights in conv_out."""
    state = source.state_dict()
    state['conv_out.conv.weight'] = torch.cat(terms, dim=1)
    target.double().load_state_dict(state)
    return target


@pytest.mark.parametrize('affinity', ['softmax', 'relu_raw', 'sym_norm'])
def test_first_order_blocks_are_chebyshev_filters(affinity):
    x = sample(2)
    snl = draw(SNLBlock, affinity=affinity)
    w_0, w_1 = weights(snl)
    order_1 = ChebyshevNLBlock(WIDTH, order=1, affinity=affinity)
    assert_same([copy_with(snl, order_1, w_0, w_1)(x)], [snl(x)])
    minus = SNLBlock(WIDTH, sign=-1, affinity=affinity)
    assert_same([copy_with(snl, minus, w_0, -w_1)(x)], [snl(x)])

    ns = draw(NSBlock, affinity=affinity)
    (w,) = weights(ns)
    assert_same([copy_with(ns, order_1, w, -w)(x)], [ns(x)])

    a2 = draw(A2Block, definition='snl', affinity=affinity)
    (w,) = weights(a2)
    assert_same([copy_with(a2, order_1, 0 * w, w)(x)], [a2(x)])
    nl = ChebyshevNLBlock(WIDTH, order=1, zero_order=False, affinity=affinity)
    assert_same([copy_with(a2, nl, w)(x)], [a2(x)])


def test_gsnl_spans_the_functions_of_snl():
    gsnl = draw(ChebyshevNLBlock, order=2, stable=True, affinity='softmax')
    w_1, w_2, w_3 = weights(gsnl)
    snl = SNLBlock(WIDTH, affinity='softmax')
    x = sample(2)
    assert_same([copy_with(gsnl, snl, w_1 - w_3, w_2 + 2 * w_3)(x)], [gsnl(x)])


def test_embedded_gaussian_of_two_families():
    graph = draw(ChebyshevNLBlock, order=1, zero_order=False, affinity='softmax')
    nl = NLBlock(
        WIDTH,
        bias=False,
        use_scale=False,
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='ReLU'),
    ).double()
    nl.load_state_dict(graph.state_dict())
    x = sample(2)
    assert_same([nl(x)], [graph(x)])


def test_cayley_polynomial_is_a_filter_of_second_order():
    cayley = draw(CayleyNLBlock)
    w_1, w_2 = cayley.conv_out.conv.weight.data.flatten(1).chunk(2, dim=1)
    w_h = cayley.conv_h.conv.weight.data.flatten(1)
    x = sample(2)
    a = cayley.affinity(x).dense()
    g = cayley.g(x).flatten(2).transpose(1, 2)
    # (I - A)² = I - 2 A + A²
    z = g @ (w_1 + w_2 @ w_h + w_2).T - 2 * a @ g @ w_2.T + a @ a @ g @ w_2.T
    z = cayley.conv_out.norm(z.transpose(1, 2).reshape(x.shape))
    assert_same([cayley(x)], [x + z.clamp(min=0)])


def test_symmetric_affinity_has_the_spectrum_of_a_normalised_adjacency():
    a = draw(SNLBlock).affinity(sample(2)).dense()
    torch.testing.assert_close(a, a.transpose(1, 2))
    values = torch.linalg.eigvalsh(a)
    assert values.min() >= -1 - 1e-12
    assert_same([values[:, -1]], [torch.ones(2, dtype=torch.double)])


@pytest.mark.parametrize(
    'block, options',
    [
        (NLBlock, {}),
        (NLBlock, dict(mode='gaussian')),
        (RNLBlock, {}),
        (A2Block, {}),
        (CCBlock, {}),
        (SNLBlock, dict(affinity='softmax')),
    ],
)
def test_rows_that_sum_to_one(block, options):
    a = draw(block, **options).affinity(sample(2)).dense()
    assert_same([a.sum(2)], [torch.ones_like(a[..., 0])])


def test_disentangled_rows_sum_to_two():
    a = draw(DNLBlock).affinity(sample(2)).dense()
    assert_same([a.sum(2)], [torch.full_like(a[..., 0], 2)])


def test_linear_arma_converges_to_the_rational_filter():
    a, b = 0.4, 1.3
    block = draw(ARMANLBlock, nonlinear=False, num_iterations=60, norm_cfg=None)
    width = WIDTH // 2
    identity = torch.eye(width, dtype=torch.double)[:, :, None, None]
    block.recurrent.conv.weight.data = a * identity
    block.skip.conv.weight.data = b * identity
    x = sample(2)
    affinity = block.affinity(x).dense()
    g = block.g(x).flatten(2).transpose(1, 2)
    inverse = torch.linalg.inv(torch.eye(affinity.shape[1]).double() - a * affinity)
    z = b * inverse @ g @ block.conv_out.conv.weight.flatten(1).T
    z = z.transpose(1, 2).reshape(x.shape).clamp(min=0)
    assert_same([block(x)], [x + z])


def test_rational_cayley_terms_keep_the_norm_of_a_symmetric_graph():
    """C is unitary when L is symmetric: |Re C g|² + |Im C g|² = |g|²."""
    from nl_plugins.graph import cayley

    block, x = draw(CayleyNLBlock, rational=True), sample(2)
    g = block.g(x).flatten(2).transpose(1, 2)
    for order in (1, 3):
        g_0, *powers = cayley(block.affinity(x), g, order=order, zoom=0.7)
        for real, imaginary in zip(powers[::2], powers[1::2]):
            norm = real.square().sum(1) + imaginary.square().sum(1)
            assert_same([norm], [g_0.square().sum(1)])


def test_independent_criss_cross_with_equal_units_is_the_shared_one():
    shared = draw(CCBlock, recurrence=2)
    independent = CCBlock(WIDTH, recurrence=2, shared=False).double()
    state = shared.state_dict()
    independent.load_state_dict(
        {f'units.{k}.{name}': v for k in range(2) for name, v in state.items()}
    )
    x = sample(2)
    assert_same([independent(x)], [shared(x)])


def test_criss_cross_of_a_clip_is_that_of_its_frames():
    clip = draw(CCBlock, ndim=3)
    frame = CCBlock(WIDTH).double()
    state = clip.state_dict()
    frame.load_state_dict(
        {k: v.squeeze(-1) if v.ndim == 5 else v for k, v in state.items()}
    )
    x = sample(3)
    expected = torch.stack([frame(x[:, :, t]) for t in range(x.shape[2])], dim=2)
    assert_same([clip(x)], [expected])


def test_region_block_without_regions_is_embedded_gaussian_of_one_embedding():
    rnl = draw(RNLBlock, kernel_size=1)
    nl = NLBlock(WIDTH, use_scale=False, norm_cfg=dict(type='BN'), out_bias=True)
    state = rnl.state_dict()
    for name in ('weight', 'bias'):
        for other in ('phi', 'g'):
            state[f'{other}.conv.{name}'] = state[f'theta.conv.{name}']
    nl.double().load_state_dict(state)
    x = sample(2)
    assert_same([rnl(x)], [nl(x)])


def test_query_and_key_of_a_region_block_are_one_tensor():
    """So that the affinity can use the symmetry of its logits."""
    affinity = RNLBlock(WIDTH).affinity(sample(2).float())
    assert affinity.query is affinity.key
    affinity = NLBlock(WIDTH, mode='gaussian').affinity(sample(2).float())
    assert affinity.query is affinity.key
