# Copyright (c) The nl_plugins authors. All rights reserved.
"""Several blocks as one, as a plugin of mmseg, and on feature levels."""

import pytest
import torch
import torch.nn as nn
from mmengine.registry import MODELS

from nl_plugins.attach import BaseNonLocalNeck, BlockSequence
from nl_plugins.attach.layout import apply_block, frames_to_clip, sizes_of

from .networks import NL, build, wake

SNL = dict(type='SNLBlock')


def act(block):
    """Give every parameter a value, so that zeroed outputs act."""
    torch.manual_seed(0)
    for parameter in block.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return block.eval()


def test_a_sequence_runs_its_blocks_in_order():
    sequence = act(BlockSequence(8, blocks=[NL, SNL, NL]))
    assert sequence.names == ('nl_block', 'snl_block', 'nl_block_2')
    x = torch.randn(2, 8, 5, 4)
    expected = sequence.nl_block_2(sequence.snl_block(sequence.nl_block(x)))
    assert torch.equal(sequence(x), expected)
    sequence.init_weights()
    assert torch.equal(sequence.train()(x), x)


def test_a_sequence_folds_frames_for_3d_blocks():
    blocks = [NL, dict(type='NLBlock', ndim=3)]
    sequence = act(BlockSequence(8, blocks=blocks, num_segments=3))
    x = torch.randn(6, 8, 4, 5)
    frames = sequence.nl_block(x)
    clip = frames.view(2, 3, 8, 4, 5).transpose(1, 2)
    expected = sequence.nl_block_2(clip).transpose(1, 2).reshape(6, 8, 4, 5)
    torch.testing.assert_close(sequence(x), expected)
    with pytest.raises(ValueError, match='does not divide the 4 frames'):
        sequence(x[:4])


def test_two_blocks_at_one_position_of_a_plugin_both_act():
    pytest.importorskip('mmseg')
    plugin = dict(
        cfg=dict(type='BlockSequence', blocks=[NL, SNL]),
        stages=(False, False, True, False),
        position='after_conv3',
    )
    net = build(
        'mmseg',
        dict(type='ResNetV1c', depth=50, norm_cfg=dict(type='BN'), plugins=[plugin]),
    )
    net.init_weights()
    net.eval()
    x = torch.randn(1, 3, 32, 32)
    before = net(x)[-1]
    for child in ('nl_block', 'snl_block'):
        block = getattr(net.layer3[0].blocks, child)
        state = {key: value.clone() for key, value in block.state_dict().items()}
        act(block)
        assert not torch.equal(net(x)[-1], before)
        block.load_state_dict(state)
    assert torch.equal(net(x)[-1], before)
    sequences = [m for m in net.modules() if isinstance(m, BlockSequence)]
    assert len(sequences) == 6


def test_a_neck_refines_the_chosen_levels():
    neck = act(BaseNonLocalNeck([8, 16, 32], block=[NL, SNL], levels=(-1, 0)))
    assert {key.split('.')[0] for key in neck.state_dict()} == {'level0', 'level2'}
    inputs = tuple(torch.randn(1, c, 4, 4) for c in (8, 16, 32))
    outs = neck.refine(inputs)
    assert isinstance(outs, tuple) and outs[1] is inputs[1]
    assert torch.equal(outs[2], neck.level2(inputs[2]))
    neck.init_weights()
    for a, b in zip(neck.refine(inputs), inputs):
        assert torch.equal(a, b)
    single = act(BaseNonLocalNeck(8, block=NL))
    assert single.refine(inputs[0]).shape == inputs[0].shape


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(levels=()), 'levels must be .*at least one'),
        (dict(levels=(2,)), 'level 2 does not exist'),
        (dict(levels=(0, 0)), 'names a level of 2 twice'),
        (dict(levels=(1, -1)), 'names a level of 2 twice'),
        (dict(levels=0), 'levels must be a sequence'),
        (dict(block=[]), 'block must be .*at least one'),
        (dict(block='NLBlock'), "block must be a dict with the key 'type'"),
        (dict(in_channels=[]), 'in_channels must be .*at least one'),
        (dict(num_segments=0), "positive integer or 'input' or None"),
        (dict(num_segments=4), 'NLBlock sees each frame alone: give ndim=3'),
        (dict(num_segment=4), "no option 'num_segment' .did you mean"),
    ],
)
def test_mistakes_in_a_neck(options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        BaseNonLocalNeck(**{'in_channels': [8, 8], 'block': NL, **options})


def test_a_neck_names_the_levels_that_it_takes():
    neck = BaseNonLocalNeck([8, 8], block=NL)
    with pytest.raises(ValueError, match=r'takes 2 feature level\(s\), but got 1'):
        neck.refine(torch.randn(1, 8, 4, 4))


def test_any_registered_module_counts_as_a_block():
    class Twice(nn.Module):
        def __init__(self, in_channels):
            super().__init__()

        def forward(self, x):
            return 2 * x

    if 'TwiceForTest' not in MODELS.module_dict:
        MODELS.register_module(module=Twice, name='TwiceForTest')
    cfg = dict(type='TwiceForTest', postfix='_end')
    sequence = BlockSequence(4, blocks=[cfg, cfg])
    assert sequence.names == ('twice_end', 'twice_end_2')
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(sequence(x), 4 * x)


def test_frames_and_clips():
    x = torch.arange(24.0).view(6, 4, 1, 1)
    clip = frames_to_clip(x, 3)
    assert clip.shape == (2, 4, 3, 1, 1)
    assert torch.equal(clip[1, :, 2], x[5])
    assert torch.equal(apply_block(nn.Identity(), x, 3), x)


def test_sizes_are_the_whole_numbers_of_a_call():
    output = (torch.zeros(2, 3), (5, 2), None, True, ('a', 1))
    args = (torch.zeros(1), torch.Size([3, 4]), 7, 1.5, torch.tensor(9))
    assert sizes_of(args, {'grid': [6, 2]}, output) == (5, 2, 3, 4, 7, 9, 6, 2)


def test_wake_is_not_vacuous():
    from .networks import SHORT

    network = SHORT['mmseg-resnetv1c18']
    torch.manual_seed(0)
    net = network.build().eval()
    x = network.input()
    before = net(x)[-1]
    assert not torch.equal(wake(net)(x)[-1], before)
