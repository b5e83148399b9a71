# Copyright (c) The nl_plugins authors. All rights reserved.
"""What holds for every block that is registered, whoever wrote it."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn.bricks.plugin import infer_abbr
from mmengine.registry import MODELS

from nl_plugins.blocks import BLOCKS

from . import checks


@pytest.mark.parametrize('name, variant, ndim', checks.cases())
@pytest.mark.parametrize('check', checks.ALL, ids=lambda check: check.__name__)
def test_block(check, name, variant, ndim):
    check(BLOCKS[name], variant, ndim)


def test_the_public_blocks_are_all_there():
    assert set(BLOCKS) >= {
        'A2Block',
        'ANLBlock',
        'ARMANLBlock',
        'CCBlock',
        'CGNLBlock',
        'CayleyNLBlock',
        'ChannelGate',
        'ChebyshevNLBlock',
        'DNLBlock',
        'NLBlock',
        'NSBlock',
        'RNLBlock',
        'SNLBlock',
    }


def test_plugin_names_are_explicit_and_unique():
    ours = {block._abbr_ for block in BLOCKS.values()}
    assert len(ours) == len(BLOCKS)
    others = {
        infer_abbr(module)
        for module in MODELS.module_dict.values()
        if inspect.isclass(module) and module not in BLOCKS.values()
    }
    assert {'nonlocal_block', 'context_block'} <= others
    assert not ours & others


@pytest.mark.parametrize('name', BLOCKS)
def test_signature_is_in_channels_then_keywords(name):
    first, second, *others = inspect.signature(BLOCKS[name]).parameters.values()
    assert first.name == 'in_channels'
    keyword = (second.KEYWORD_ONLY, second.VAR_KEYWORD)
    assert all(parameter.kind in keyword for parameter in (second, *others))


@pytest.mark.parametrize('name, variant, ndim', checks.cases())
def test_an_empty_input_is_named(name, variant, ndim):
    module = checks.build(BLOCKS[name], variant, ndim).eval()
    x = checks.sample(ndim)
    with pytest.raises(ValueError, match=f'{name} got an empty batch .*loader'):
        module(x[:0])
    with pytest.raises(ValueError, match=f'{name} got an empty map .*loader'):
        module(x[..., :0])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_size_is_preserved(data):
    name, variant, ndim = data.draw(st.sampled_from(checks.cases()))
    batch = data.draw(st.integers(1, 3))
    sizes = data.draw(st.lists(st.integers(2, 5), min_size=ndim, max_size=ndim))
    module = checks.build(BLOCKS[name], variant, ndim).eval()
    x = torch.randn(batch, checks.WIDTH, *sizes, dtype=torch.double)
    out = module(x)
    assert out.shape == x.shape
    assert out.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_samples_of_a_batch_do_not_meet(data):
    name, variant, ndim = data.draw(st.sampled_from(checks.cases()))
    module = checks.build(BLOCKS[name], variant, ndim).eval()
    x = checks.sample(ndim, batch=3)
    torch.testing.assert_close(module(x)[1:2], module(x[1:2]), rtol=1e-9, atol=1e-9)
