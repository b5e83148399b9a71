# Copyright (c) The nl_plugins authors. All rights reserved.
"""Query dependence against its dense definition."""

import json

import pytest
import torch
import torch.nn as nn

from nl_plugins.analysis import ablate, query_dependence
from nl_plugins.analysis.dependence import Estimate, dependence_table
from nl_plugins.blocks import BLOCKS, ChannelGate, NLBlock
from nl_plugins.graph import Affinity

CASES = [
    pytest.param(cls, options, id=f'{name}-{variant}')
    for name, cls in BLOCKS.items()
    for variant, options in cls.variants.items()
]


def network(cls, options, ndim=2):
    torch.manual_seed(0)
    model = nn.Sequential(cls(16, ndim=ndim, **options)).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model, torch.randn(3, 16, *(4, 6, 5)[-ndim:], dtype=torch.double)


@pytest.mark.parametrize('cls, options', CASES)
@torch.no_grad()
def test_every_block_is_measured_as_its_matrix_says(cls, options, monkeypatch):
    model, x = network(cls, options)
    dense = model[0].affinity(x).dense()
    if cls is ChannelGate:
        dense = dense[:, :1]  # what it applies: all rows are this one

    def forbidden(self):
        raise AssertionError('the N x M matrix was built')

    monkeypatch.setattr(Affinity, 'dense', forbidden)
    (found,) = query_dependence(model, [x], num_rows=10**6).values()
    _, queries, keys = dense.shape
    assert (found.queries, found.keys, found.samples) == (queries, keys, 3)
    mean = dense.mean(1, keepdim=True)
    p = dense / dense.abs().sum(2, keepdim=True).clamp_min(1e-300)
    q = mean / mean.abs().sum(2, keepdim=True)
    expected = (p - q).abs().sum(2).mean().item() / 2
    assert found.total_variation.mean == pytest.approx(expected, abs=1e-9)
    cosine = torch.cosine_similarity(dense, mean, dim=2)
    # A row of zeros has no direction; its distance is taken as that of a zero vector.
    cosine = torch.where(dense.abs().sum(2) > 0, 1 - cosine, 0.5)
    assert found.cosine_distance.mean == pytest.approx(cosine.mean().item(), abs=1e-9)
    entropy = torch.special.entr(p.abs()).sum(2).mean().item()
    entropy /= torch.log(torch.tensor(keys)).item()
    assert found.entropy.mean == pytest.approx(entropy, abs=1e-6)
    if queries == keys:
        p = p.abs().unflatten(1, (-1, 30)).unflatten(3, (-1, 30)).sum(3)
        own = p.diagonal(dim1=2, dim2=3).mean().item()
        assert found.self_mass.mean == pytest.approx(own, abs=1e-9)
        assert sum(found.distance) == pytest.approx(p.sum(3).mean().item(), abs=1e-9)
        axes = torch.arange(6), torch.arange(5)
        place = torch.stack(torch.meshgrid(*axes, indexing='ij'), -1)
        place = place.flatten(0, 1)
        near = (place.unsqueeze(1) - place).abs().amax(2) <= 1
        mass = (p * near).sum(3).mean().item()
        assert found.near_mass.mean == pytest.approx(mass, abs=1e-9)
        assert found.near_chance == pytest.approx(near.double().mean().item())
    else:
        assert found.self_mass is None and found.distance is None
    assert json.loads(json.dumps(found.to_dict()))['keys'] == keys
    assert '| `0` |' in dependence_table({'0': found})


@torch.no_grad()
def test_equal_rows_and_own_positions():
    model, x = network(ChannelGate, {})
    found = query_dependence(model, [x])['0']
    assert found.total_variation.mean < 1e-12
    model, x = network(NLBlock, dict(mode='gaussian'))
    x = x / x.norm(dim=1, keepdim=True)
    found = query_dependence(model, [10 * x])['0']
    assert found.self_mass.mean > 0.999 and found.entropy.mean < 1e-3
    assert found.total_variation.mean == pytest.approx(1 - 1 / 30, abs=1e-3)
    found = query_dependence(model, [0 * x])['0']
    assert found.entropy.mean == pytest.approx(1)
    assert found.distance == pytest.approx(found.distance_chance)


@torch.no_grad()
def test_clips_and_graphs_of_a_frame():
    for name in ('NLBlock', 'CCBlock'):
        model, x = network(BLOCKS[name], {}, ndim=3)
        found = query_dependence(model, [x, x])['0']
        assert found.samples == 6 and found.self_mass.mean > 0


@torch.no_grad()
def test_sampled_rows_repeat_and_their_interval_covers():
    model, x = network(NLBlock, {})
    x = torch.randn(40, 16, 6, 5, dtype=torch.double)
    whole = query_dependence(model, [x], num_rows=10**6)['0'].total_variation
    some = query_dependence(model, [x], num_rows=4, seed=1)['0']
    assert some.rows == 4
    assert some.total_variation.low < whole.mean < some.total_variation.high
    assert query_dependence(model, [x], num_rows=4, seed=1)['0'] == some


def test_estimates():
    assert f'{Estimate.of([2.0]):.1f}' == '2.0'
    found = Estimate.of([1.0, 3.0])
    assert (found.mean, found.high) == (2, pytest.approx(2 + 1.96))
    assert f'{found:.2f}' == '2.00 [0.04, 3.96]'


def test_wrong_requests_are_refused():
    model, x = network(NLBlock, {})
    with pytest.raises(ValueError, match='num_rows'):
        query_dependence(model, [x], num_rows=0)
    with pytest.raises(ValueError, match='no non-local block ran'):
        query_dependence(model, [])
    with pytest.raises(ValueError, match='no non-local block ran'):
        query_dependence(nn.Identity(), [x])
    assert 'forward' not in vars(model[0]) and not model[0]._forward_pre_hooks


@pytest.mark.parametrize('name', ['NLBlock', 'SNLBlock', 'CGNLBlock', 'DNLBlock'])
@torch.no_grad()
def test_an_ablated_block_is_measured_as_it_is_ablated(name):
    model, x = network(BLOCKS[name], {})
    plain = model(x)
    with ablate(model, 'mean_row'):
        found = query_dependence(model, [x])['0']
        ablated = model(x)
    assert found.total_variation.mean < 1e-9
    assert query_dependence(model, [x])['0'].total_variation.mean > 1e-3
    assert torch.equal(model(x), plain) and not torch.equal(ablated, plain)
    assert not {'filter', 'forward', '_replacements'} & set(vars(model[0]))


@torch.no_grad()
def test_accelerated_modules_are_measured():
    from mmcv.cnn import NonLocal2d

    from nl_plugins import accelerate

    torch.manual_seed(0)
    stock = NonLocal2d(8, reduction=2, zeros_init=False).eval()
    ours = NLBlock(8).eval()
    ours.load_state_dict(stock.state_dict())
    applied, x = accelerate.is_applied(), torch.randn(2, 8, 5, 4)
    accelerate.apply()
    try:
        (found,) = query_dependence(nn.Sequential(stock), [x]).values()
    finally:
        if not applied:
            accelerate.undo()
    (expected,) = query_dependence(nn.Sequential(ours), [x]).values()
    for name in ('total_variation', 'entropy', 'self_mass', 'near_mass'):
        assert getattr(found, name).mean == pytest.approx(
            getattr(expected, name).mean, abs=1e-6
        )
