# Copyright (c) The nl_plugins authors. All rights reserved.
"""One row of an affinity as a map, for every block."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from nl_plugins.analysis import AttentionRecord, query_map, record_attention
from nl_plugins.blocks import BLOCKS, NLBlock
from nl_plugins.graph import Affinity, SoftmaxAffinity

GRIDS = {1: (9,), 2: (6, 8), 3: (4, 6, 4)}
CASES = [
    pytest.param(cls, options, ndim, id=f'{name}-{variant}-{ndim}d')
    for name, cls in BLOCKS.items()
    for variant, options in cls.variants.items()
    for ndim in cls.ndims
    if ndim > 1
]


def record_of(block, x):
    model = nn.Sequential(nn.Identity(), block).eval()
    with torch.no_grad(), record_attention(model) as maps:
        model(x)
    assert list(maps) == ['1']
    return maps['1']


@pytest.mark.parametrize('cls, options, ndim', CASES)
def test_every_block_gives_a_map(cls, options, ndim, monkeypatch):
    torch.manual_seed(0)
    grid = GRIDS[ndim]
    block, x = cls(16, ndim=ndim, **options), torch.randn(2, 16, *grid)

    def forbidden(self):
        raise AssertionError('the N x M matrix was built')

    monkeypatch.setattr(Affinity, 'dense', forbidden)
    record = record_of(block, x)
    assert record.grid == grid
    position = tuple(size - 2 for size in grid)
    heat = query_map(record, position, sample=1)
    assert heat.shape == grid and torch.isfinite(heat).all()
    large = query_map(record, position, [3 * size for size in grid])
    assert large.shape == tuple(3 * size for size in grid)


@pytest.mark.parametrize('ndim', [1, 2, 3])
def test_a_row_is_the_row_of_the_matrix(ndim):
    torch.manual_seed(0)
    grid = GRIDS[ndim]
    block, x = NLBlock(8, ndim=ndim).eval(), torch.randn(2, 8, *grid)
    record, dense = record_of(block, x), block.affinity(x).dense()
    flat = torch.arange(dense.shape[1]).view(grid)
    for position in [(0,) * ndim, tuple(size - 1 for size in grid)]:
        expected = dense[1, flat[position]].view(grid)
        torch.testing.assert_close(record.row(position, sample=1), expected)


def test_pooled_keys_fold_to_their_own_grid():
    torch.manual_seed(0)
    block, x = NLBlock(8, sub_sample=True).eval(), torch.randn(1, 8, 6, 8)
    row = record_of(block, x).row((5, 1))
    assert row.shape == (3, 4)
    expected = block.affinity(x).dense()[0, 5 * 8 + 1].view(3, 4)
    torch.testing.assert_close(row, expected)


def test_a_pyramid_of_keys_is_spread_as_its_average_pooling_collected_it():
    torch.manual_seed(0)
    block, x = BLOCKS['ANLBlock'](8).eval(), torch.randn(1, 8, 12, 9)
    record = record_of(block, x)
    row = block.affinity(x).rows([17])[0, 0]
    features = torch.randn(1, 1, 12, 9)
    pooled = [F.adaptive_avg_pool2d(features, s).flatten() for s in block.pool_sizes]
    heat = record.row((1, 8))
    # <row, pool(f)> = <spread(row), f> for every f.
    torch.testing.assert_close((heat * features[0, 0]).sum(), row @ torch.cat(pooled))


def test_the_frame_of_a_per_frame_graph():
    torch.manual_seed(0)
    block, x = BLOCKS['CCBlock'](16, ndim=3).eval(), torch.randn(2, 16, 3, 4, 5)
    row = record_of(block, x).row((1, 2, 3), sample=1)
    assert row[[0, 2]].abs().sum() == 0
    seen = row[1] > 0
    assert seen[2].all() and seen[:, 3].all() and seen.sum() == 4 + 5 - 1
    frame = x[1:, :, 1]
    flat = BLOCKS['CCBlock'](16, ndim=2).eval()
    weights = {k: v.squeeze(2) for k, v in block.state_dict().items() if v.ndim == 5}
    flat.load_state_dict(weights, strict=False)
    flat.load_state_dict(
        {k: v for k, v in block.state_dict().items() if v.ndim < 4}, strict=False
    )
    torch.testing.assert_close(row[1], record_of(flat, frame).row((2, 3)))


def test_nodes_of_a_compact_block_are_averaged_over_channels():
    torch.manual_seed(0)
    block = BLOCKS['CGNLBlock'](8, groups=2).eval()
    x = torch.randn(2, 8, 3, 4)
    row = record_of(block, x).row((2, 1), sample=1)
    dense = block.affinity(x).dense().unflatten(0, (2, -1))[1]
    channels = block.inner_channels // block.groups
    nodes = dense.view(dense.shape[0], channels, 12, channels, 12)
    torch.testing.assert_close(row.flatten(), nodes[:, :, 9].abs().mean((0, 1)).mean(0))


def test_positions_scale_with_the_picture():
    query = torch.eye(4).expand(1, 4, 4) * 50
    record = AttentionRecord(SoftmaxAffinity(query, query), (2, 2))
    heat = query_map(record, (10, 70), (80, 80))  # top right cell
    assert heat[10, 70] > 0.9 and heat[70, 10] < 0.1
    with pytest.raises(ValueError, match='inside'):
        query_map(record, (80, 0), (80, 80))
    with pytest.raises(ValueError, match='inside'):
        query_map(record, (1,))
    with pytest.raises(ValueError, match='size must have 2 numbers'):
        query_map(record, (1, 1, 1), (4, 8, 8))
    with pytest.raises(ValueError, match='sample'):
        query_map(record, (1, 1), sample=1)


def test_hooks_are_always_removed_and_training_is_left_alone():
    block = NLBlock(8, norm_cfg=dict(type='BN')).train()
    model = nn.Sequential(block)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match='stop'):
        with record_attention(model):
            assert block._forward_pre_hooks
            raise RuntimeError('stop')
    assert not block._forward_pre_hooks
    with record_attention(model) as maps:
        block.affinity(torch.randn(2, 8, 4, 4))
        assert not maps
    gate = BLOCKS['ANLBlock'](8, theta_norm_cfg=dict(type='BN')).train()
    statistics = gate.theta.bn.running_mean.clone()
    with record_attention(nn.Sequential(gate)):
        pass
    from nl_plugins.analysis.record import _record

    _record({}, 'gate', gate, (torch.randn(2, 8, 4, 4),))
    assert torch.equal(gate.theta.bn.running_mean, statistics) and gate.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_layers_are_chosen_by_name_or_by_their_parent():
    model = nn.ModuleDict(dict(a=nn.Sequential(NLBlock(4), NLBlock(4)), b=NLBlock(4)))

    def run():
        x = torch.randn(1, 4, 3, 3)
        model['b'](model['a'](x))

    with record_attention(model, ['a']) as maps:
        run()
    assert list(maps) == ['a.0', 'a.1']
    with record_attention(model, 'b') as maps:
        run()
    assert list(maps) == ['b']
    with pytest.raises(ValueError, match="'c' holds no non-local block.*'a.0'"):
        with record_attention(model, ['c']):
            pass
