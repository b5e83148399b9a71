# Copyright (c) The nl_plugins authors. All rights reserved.
"""A wrong option is refused in one sentence: name, value, choices."""

import pytest
import torch

from nl_plugins.blocks import (
    BLOCKS,
    A2Block,
    ANLBlock,
    ARMANLBlock,
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


@pytest.mark.parametrize(
    'block, options, message',
    [
        (NLBlock, dict(mode='gauss'), r"mode must be one of .*'gaussian'.*'gauss'"),
        (NLBlock, dict(use_scale='yes'), r"use_scale .*'inverted'.*'yes'"),
        (NLBlock, dict(sub_sample_order='pool'), r"sub_sample_order .*'pool'"),
        (NLBlock, dict(init='xavier'), r"init must be one of .*'xavier'"),
        (NLBlock, dict(zeros_init='norm'), r"zeros_init .*'conv'.*'norm'"),
        (NLBlock, dict(ndim=4), r'ndim must be one of \[1, 2, 3\], but got 4'),
        (NLBlock, dict(reduction=17), r'reduction .* in_channels=16, but got 17'),
        (NLBlock, dict(reduction=0), r'reduction .* but got 0'),
        (CCBlock, dict(ndim=1), r'ndim must be one of \[2, 3\], but got 1'),
        (CCBlock, dict(recurrence=0), r'recurrence .* but got 0'),
        (CCBlock, dict(norm_cfg=dict(type='BN')), r'norm_cfg must be None'),
        (RNLBlock, dict(kernel_size=4), r'kernel_size .*odd.* but got \(4, 4\)'),
        (RNLBlock, dict(kernel_size=(3, 3, 3)), r'2 odd numbers .*\(3, 3, 3\)'),
        (RNLBlock, dict(activation='gelu'), r"activation .*'relu'.*'gelu'"),
        (CGNLBlock, dict(groups=3), r'groups must divide in_channels=16 .*got 3'),
        (CGNLBlock, dict(groups=16), r'one of \[1, 2, 4, 8\], but got 16'),
        (CGNLBlock, dict(kernel='poly'), r"kernel .*'rbf'.*'poly'"),
        (CGNLBlock, dict(order=-1), r'order .* but got -1'),
        (SNLBlock, dict(sign=2), r'sign must be one of \[1, -1\], but got 2'),
        (SNLBlock, dict(affinity='dot'), r"affinity .*'sym_norm'.*'dot'"),
        (SNLBlock, dict(num_units=0), r'num_units .* but got 0'),
        (NSBlock, dict(sign=0), r'sign must be one of'),
        (ChebyshevNLBlock, dict(order=0), r'order .* but got 0'),
        (A2Block, dict(definition='a2'), r"definition .*'a2net'.*'a2'"),
        (A2Block, dict(affinity='softmax'), r"affinity='softmax' has no effect"),
        (DNLBlock, dict(definition='dnl'), r"definition .*'disentangled'.*'dnl'"),
        (DNLBlock, dict(mode='dot'), r"mode .*'dot_product'.*'dot'"),
        (
            DNLBlock,
            dict(temperature=0),
            r'temperature must be a positive number, but got 0',
        ),
        (DNLBlock, dict(definition='snl', temperature=1), r'temperature=1 belong'),
        (DNLBlock, dict(symmetric=True), r'symmetric=True has no effect'),
        (ANLBlock, dict(pool_sizes=(1, 0)), r'pool_sizes .*\(1, 0\)'),
        (ANLBlock, dict(fusion='sum'), r"fusion .*'concat'.*'sum'"),
        (ARMANLBlock, dict(num_iterations=0), r'num_iterations .* but got 0'),
        (ARMANLBlock, dict(num_stacks=0), r'num_stacks .* but got 0'),
        (CayleyNLBlock, dict(order=0), r'order .* but got 0'),
        (CayleyNLBlock, dict(zoom=-1), r'zoom must be a positive number, but got -1'),
        (CayleyNLBlock, dict(rational=True, affinity='relu_raw'), r'bounded spectrum'),
        (ChannelGate, dict(kind='cbam'), r"kind must be one of \['gc', 'se'\]"),
    ],
)
def test_wrong_value(block, options, message):
    with pytest.raises(ValueError, match=message) as error:
        block(16, **options)
    assert str(error.value).startswith(block.__name__)


@pytest.mark.parametrize('block', BLOCKS.values(), ids=BLOCKS)
def test_option_that_does_not_exist(block):
    with pytest.raises(
        TypeError, match=rf"{block.__name__} has no option 'redution'.*'reduction'"
    ):
        block(16, redution=4)


@pytest.mark.parametrize('block', BLOCKS.values(), ids=BLOCKS)
def test_options_lists_what_the_constructor_takes(block):
    assert {'ndim', 'reduction', 'conv_cfg', 'norm_cfg', 'init_cfg'} < set(
        block.options()
    )
    for options in block.variants.values():
        assert set(options) <= set(block.options())


@pytest.mark.parametrize('block', BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize(
    'shape', [(2, 16, 4), (2, 16, 2, 4, 4), (2, 8, 4, 4), (16, 4, 4)]
)
def test_input_of_another_rank_or_width(block, shape):
    message = rf'{block.__name__} with in_channels=16, ndim=2 takes \(batch, 16, H, W\)'
    with pytest.raises(ValueError, match=message):
        block(16)(torch.zeros(shape))
    with pytest.raises(ValueError, match=message):
        block(16).affinity(torch.zeros(shape))


@pytest.mark.parametrize('in_channels', [0, -4, 2.0, '16'])
def test_in_channels(in_channels):
    with pytest.raises(ValueError, match='in_channels must be a positive integer'):
        NLBlock(in_channels)


def test_batch_norm_cannot_train_on_one_vector():
    gate = ChannelGate(16)
    with pytest.raises(ValueError, match='one sample'):
        gate(torch.zeros(1, 16, 3, 3))
    assert gate.eval()(torch.zeros(1, 16, 3, 3)).shape == (1, 16, 3, 3)
