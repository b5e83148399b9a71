# Copyright (c) The nl_plugins authors. All rights reserved.
"""Replaced affinities against the dense definition, for every block."""

import pytest
import torch
import torch.nn as nn

from nl_plugins.analysis import ablate, record_attention
from nl_plugins.analysis.ablation import mean_row, replaced_affinity
from nl_plugins.blocks import BLOCKS, NLBlock, SNLBlock
from nl_plugins.graph import Affinity
from nl_plugins.graph.affinity import MatrixAffinity

CASES = [
    pytest.param(cls, options, id=f'{name}-{variant}')
    for name, cls in BLOCKS.items()
    for variant, options in cls.variants.items()
]


def network(cls, options, ndim=2):
    """A block whose every weight counts, in float64, and an input."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), cls(16, ndim=ndim, **options)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 16, *(4, 6, 5)[-ndim:], dtype=torch.double)
    return model.eval(), x


def averaged(affinity):
    dense = affinity.dense()
    return MatrixAffinity(dense.mean(1, keepdim=True).expand_as(dense))


def unit(affinity):
    dense = affinity.dense()
    return MatrixAffinity(torch.eye(dense.shape[1]).to(dense).expand_as(dense))


@pytest.mark.parametrize('cls, options', CASES)
@torch.no_grad()
def test_the_mean_row_is_that_of_the_matrix(cls, options, monkeypatch):
    model, x = network(cls, options)
    affinity, dense = model[1].affinity(x), model[1].affinity(x).dense()

    def forbidden(self):
        raise AssertionError('the N x M matrix was built')

    with monkeypatch.context() as patch:
        patch.setattr(Affinity, 'dense', forbidden)
        found = mean_row(affinity)
    torch.testing.assert_close(found, dense.mean(1))


@pytest.mark.parametrize('cls, options', CASES)
@torch.no_grad()
def test_every_block_is_ablated_as_the_dense_definition_says(cls, options):
    model, x = network(cls, options)
    plain = model(x)
    with replaced_affinity(model[1], averaged):
        expected = model(x)
    with ablate(model, 'mean_row'):
        found = model(x)
    torch.testing.assert_close(found, expected)
    if cls.__name__ != 'ChannelGate':  # every query sees the same anyway
        assert (found - plain).abs().max() > 1e-4
    with ablate(model, 'off'):
        assert torch.equal(model(x), x)
    _, queries, keys = model[1].affinity(x).shape
    if queries == keys and cls.__name__ != 'ChannelGate':
        with replaced_affinity(model[1], unit):
            expected = model(x)
        with ablate(model, 'identity'):
            torch.testing.assert_close(model(x), expected)
    else:
        with ablate(model, 'identity'), pytest.raises(ValueError, match='keys'):
            model(x)
    torch.testing.assert_close(model(x), plain, rtol=0, atol=0)


@pytest.mark.parametrize('cls, options', CASES)
@torch.no_grad()
def test_the_affinity_of_every_block_is_reached(cls, options):
    model, x = network(cls, options)
    seen = []
    with replaced_affinity(model[1], lambda affinity: seen.append(1) or affinity):
        same = model(x)
    assert seen
    torch.testing.assert_close(same, model(x), rtol=0, atol=0)


@torch.no_grad()
def test_the_formulas_of_nl_and_snl():
    model, x = network(NLBlock, {})
    block = model[1]
    g = block.g(x)
    row = block.affinity(x).dense().mean(1)
    context = torch.einsum('bn,bcn->bc', row, g.flatten(2))[..., None, None]
    with ablate(model, 'mean_row'):
        torch.testing.assert_close(model(x), x + block.conv_out(context))
    with ablate(model, 'identity'):
        torch.testing.assert_close(model(x), x + block.conv_out(g))
    model, x = network(SNLBlock, {})
    block = model[1]
    g = block.g(x)
    row = block.affinity(x).dense().mean(1)
    context = torch.einsum('bn,bcn->bc', row, g.flatten(2))[..., None, None]
    terms = torch.cat([g, context.expand_as(g)], dim=1)
    with ablate(model, 'mean_row'):
        torch.testing.assert_close(model(x), x + block.conv_out(terms))


@torch.no_grad()
def test_layers_choose_and_an_error_restores():
    model = nn.Sequential(*(network(NLBlock, {})[0] for _ in range(2)))
    x = network(NLBlock, {})[1]
    plain = model(x)
    with ablate(model, 'off', layers=['1']):
        torch.testing.assert_close(model(x), model[0](x))
    with pytest.raises(RuntimeError, match='stop'), ablate(model, 'mean_row'):
        raise RuntimeError('stop')
    assert 'forward' not in vars(model[0][1])
    assert torch.equal(model(x), plain)
    with pytest.raises(ValueError, match='how must be one of'), ablate(model, 'mean'):
        pass
    with pytest.raises(ValueError, match="layer 'head'"):
        with ablate(model, 'off', layers=['head']):
            pass
    with pytest.raises(ValueError, match='holds no non-local block'):
        with ablate(nn.Conv2d(1, 1, 1), 'off'):
            pass


@torch.no_grad()
def test_memory_stays_linear(monkeypatch):
    """Not one tensor of N x N entries, of a softmax affinity."""
    torch.manual_seed(0)
    monkeypatch.setattr('nl_plugins.analysis.ablation._TILE', 1 << 14)
    model, x = nn.Sequential(NLBlock(4)).eval(), torch.randn(1, 4, 48, 48)
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest.append(out.numel())
            return out

    with ablate(model, 'mean_row'), Watch():
        model(x)
    assert max(largest) < 48**4 / 50


@torch.no_grad()
def test_accelerated_modules_are_ablated():
    from mmcv.cnn import NonLocal2d

    from nl_plugins import accelerate

    torch.manual_seed(0)
    stock = NonLocal2d(8, reduction=2, zeros_init=False).eval()
    ours = NLBlock(8).eval()
    ours.load_state_dict(stock.state_dict())
    applied = accelerate.is_applied()
    accelerate.apply()
    try:
        x = torch.randn(2, 8, 5, 4)
        for how in ('mean_row', 'identity', 'off'):
            model, other = nn.Sequential(stock), nn.Sequential(ours)
            with ablate(model, how), ablate(other, how):
                torch.testing.assert_close(model(x), other(x))
    finally:
        if not applied:
            accelerate.undo()


@torch.no_grad()
def test_a_record_inside_sees_the_block_unchanged():
    model, x = network(NLBlock, {})
    expected = model[1].affinity(x).dense()
    with record_attention(model) as maps, ablate(model, 'mean_row'):
        model(x)
    torch.testing.assert_close(maps['1'].affinity.dense(), expected)


@torch.no_grad()
def test_a_module_without_a_sum_cannot_be_off():
    pytest.importorskip('mmseg')
    from mmseg.models.utils import SelfAttentionBlock

    from nl_plugins import accelerate

    torch.manual_seed(0)
    options = dict(share_key_query=False, query_downsample=None, key_downsample=None)
    options |= dict(key_query_num_convs=1, value_out_num_convs=1)
    options |= dict(key_query_norm=False, value_out_norm=False, matmul_norm=True)
    options |= dict(with_out=True, conv_cfg=None, norm_cfg=None, act_cfg=None)
    block = SelfAttentionBlock(8, 8, 4, 8, **options).eval()
    model, x = nn.Sequential(block), torch.randn(2, 8, 5, 4)
    applied = accelerate.is_applied()
    accelerate.apply()
    try:
        with pytest.raises(ValueError, match="residual sum, which '0'"):
            with ablate(model, 'off'):
                pass
        with ablate(model, 'mean_row'):
            found = block(x, x)
        with ablate(model, 'identity'):
            own = block(x, x)
    finally:
        if not applied:
            accelerate.undo()
    torch.testing.assert_close(found, found[..., :1, :1].expand_as(found))
    expected = block.out_project(block.value_project(x))
    torch.testing.assert_close(own, expected)
