# Copyright (c) The nl_plugins authors. All rights reserved.
"""explain says what runs: the profiler sees the operator of the strategy taken."""

import pytest
import torch
import torch.nn as nn
from torch.profiler import ProfilerActivity, profile

import nl_plugins
from nl_plugins.blocks import NLBlock, SNLBlock
from nl_plugins.graph import force


def seen(run):
    """Names of the operators and autograd functions that a profiler sees."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    return {event.name for event in profiler.events()}


@pytest.mark.parametrize(
    'mode, way, operator',
    [
        ('gaussian', 'row_tiles', 'TiledRows'),
        ('embedded_gaussian', 'row_tiles', 'TiledRows'),
        ('embedded_gaussian', 'fused', 'aten::scaled_dot_product_attention'),
        ('embedded_gaussian', 'matrix', 'aten::_softmax'),
        ('dot_product', 'gram', 'Moments'),
        ('concatenation', 'sorted', 'SortedReLU'),
    ],
)
def test_the_profiler_sees_what_is_explained(mode, way, operator):
    block, x = NLBlock(16, mode=mode), torch.randn(2, 16, 6, 7)
    with force(way), torch.set_grad_enabled(way != 'fused'):
        ((_, decision),) = nl_plugins.explain(block, x).decisions
        names = seen(lambda: block(x))
    assert decision.taken == way
    assert any(operator in name for name in names)
    others = {'TiledRows', 'Moments', 'SortedReLU'} - {operator}
    assert not any(other in name for name in names for other in others)


def test_the_choice_itself_is_what_runs():
    block = NLBlock(16, mode='gaussian')
    for size in (4, 48):
        x = torch.randn(1, 16, size, size)
        ((_, decision),) = nl_plugins.explain(block, x).decisions
        expected = {
            'row_tiles': 'TiledRows',
            'matrix': 'aten::_softmax',
        }[decision.taken]
        assert any(expected in name for name in seen(lambda x=x: block(x)))
    assert decision.taken != 'matrix'  # 2304 keys


def test_a_model_is_explained_block_by_block():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), SNLBlock(16), nn.ReLU(), NLBlock(16, mode='dot_product')
    ).eval()
    with torch.no_grad():
        explanation = nl_plugins.explain(model, torch.randn(1, 3, 34, 34))
    assert [name for name, _ in explanation.decisions] == ['1', '3']
    text = str(explanation)
    assert '1: SymmetricAffinity(1, 1024, 1024): ' in text
    assert 'ms' in text and 'refused: ' in text
    assert not any(m._forward_hooks for m in model.modules())
    assert str(nl_plugins.explain(nn.ReLU(), torch.ones(1))) == (
        'no affinity was applied'
    )
