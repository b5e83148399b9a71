# Copyright (c) The nl_plugins authors. All rights reserved.
"""Each video network equals its original, computed from the original's state dict."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import video_originals as originals

pytest.importorskip('mmaction')

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools/model_converters'))

import inception_i3d_to_mmaction  # noqa: E402
import nl_resnet3d_to_mmaction  # noqa: E402
import tsm_to_mmaction  # noqa: E402
from video_keys import build  # noqa: E402

SEGMENTS = 4


def logits(model: dict, state_dict: dict, x: torch.Tensor) -> torch.Tensor:
    """Logits of a recogniser with these weights, in evaluation."""
    with torch.device('meta'):
        recogniser = build(model)
    recogniser.load_state_dict(state_dict, assign=True)
    recogniser.eval()
    with torch.no_grad():
        return recogniser.cls_head(recogniser.backbone(x), num_segs=SEGMENTS)


def draw(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def assert_equal(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert wanted.std() > 1e-3, 'the network does not look at its input'
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    'depth, options',
    [
        (50, dict(rnl_blocks=originals.RNL_R50)),
        (50, dict(nl_blocks=originals.TSM_NL_R50)),
        (50, dict(shift=False)),
        (
            101,
            dict(rnl_blocks={(2, 0): (True, (3, 7, 7)), (3, 22): (False, (1, 1, 1))}),
        ),
    ],
    ids=['rnl_r50', 'nl_r50', 'tsn_r50', 'rnl_r101'],
)
def test_tsm(depth, options):
    state = originals.draw_tsm(depth, **options)
    frames = draw(2 * SEGMENTS, 3, 64, 64)
    found = logits(
        tsm_to_mmaction.model_config(state, SEGMENTS),
        tsm_to_mmaction.convert(state).finish(),
        frames,
    )
    assert_equal(found, originals.tsm(state, frames, SEGMENTS))


def test_rnl_in_training(monkeypatch):
    """Logits, the gradient of the input and running statistics, with batch norms."""
    state = originals.draw_tsm(rnl_blocks=originals.RNL_R50)
    model = tsm_to_mmaction.model_config(state, SEGMENTS)
    model.cls_head.dropout_ratio = 0
    with torch.device('meta'):
        recogniser = build(model)
    converted = tsm_to_mmaction.convert(state).finish()
    converted = {key: value.clone() for key, value in converted.items()}
    recogniser.load_state_dict(converted, assign=True)
    recogniser.train()
    frames = draw(2 * SEGMENTS, 3, 64, 64).requires_grad_()
    found = recogniser.cls_head(recogniser.backbone(frames), num_segs=SEGMENTS)
    (gradient,) = torch.autograd.grad(found.square().sum(), frames)

    monkeypatch.setattr(originals, 'TRAINING', True)
    wanted = originals.tsm(state, frames, SEGMENTS)
    (wanted_gradient,) = torch.autograd.grad(wanted.square().sum(), frames)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-7, atol=1e-9)

    x = F.conv2d(frames, state['base_model.conv1.weight'], stride=2, padding=3)
    mean = 0.9 * state['base_model.bn1.running_mean'] + 0.1 * x.mean((0, 2, 3))
    torch.testing.assert_close(recogniser.backbone.conv1.bn.running_mean, mean)


def test_tsm_nl_in_mmaction2s_own_network():
    state = originals.draw_tsm(nl_blocks=originals.TSM_NL_R50)
    frames = draw(SEGMENTS, 3, 64, 64)
    found = logits(
        tsm_to_mmaction.model_config(state, SEGMENTS, stock=True),
        tsm_to_mmaction.convert(state, stock=True).finish(),
        frames,
    )
    assert_equal(found, originals.tsm(state, frames, SEGMENTS))


@pytest.mark.parametrize(
    'channels, window, frames, size',
    [(3, (2, 2, 2), 16, 64), (2, (2, 3, 3), 21, 90), (2, (2, 7, 7), 10, 224)],
    ids=['rgb', 'flow_odd_sizes', 'flow_full'],
)
def test_inception_i3d_with_blocks(channels, window, frames, size):
    state = originals.draw_inception(channels)
    assert len(state) == 370
    clips = draw(1, channels, frames, size, size)
    model = inception_i3d_to_mmaction.model_config(state)
    model.cls_head.window = window
    found = logits(model, inception_i3d_to_mmaction.convert(state).finish(), clips)
    assert_equal(found, originals.inception(state, clips, window))


def test_inception_i3d_without_blocks():
    state = originals.draw_inception(non_local=False)
    assert len(state) == 344
    clips = draw(2, 3, 12, 64, 64)
    found = logits(
        inception_i3d_to_mmaction.model_config(state),
        inception_i3d_to_mmaction.convert(state).finish(),
        clips,
    )
    assert_equal(found, originals.inception(state, clips, None))


def test_inception_i3d_of_kinetics():
    """Norms of TensorFlow's epsilon and a head of windows, as its port has them."""
    state = originals.draw_inception(non_local=False)
    clips = draw(2, 3, 16, 64, 64)
    origin = inception_i3d_to_mmaction.KINETICS
    model = inception_i3d_to_mmaction.model_config(state, origin)
    assert model.cls_head.type == 'InceptionI3DHead'
    model.cls_head.window = (2, 2, 2)
    found = logits(model, inception_i3d_to_mmaction.convert(state).finish(), clips)
    wanted = originals.inception(state, clips, (2, 2, 2), eps=1e-3)
    assert_equal(found, wanted)
    other = originals.inception(state, clips, (2, 2, 2))
    assert (other - wanted).abs().max() > 1e-6 * wanted.abs().max()


STEMS = {
    '32x2': (dict(), dict()),
    '8x8': (
        dict(conv1_stride_t=1, pool1_kernel=(1, 3, 3), pool1_stride_t=1),
        dict(conv1_stride_t=1, pool1=((1, 3, 3), (1, 2, 2), (0, 0, 0))),
    ),
    'slowfast': (
        dict(
            conv1_stride_t=1,
            pool1_kernel=(1, 3, 3),
            pool1_stride_t=1,
            pool1_padding=(0, 1, 1),
        ),
        dict(conv1_stride_t=1, pool1=((1, 3, 3), (1, 2, 2), (0, 1, 1))),
    ),
    'mmaction': (
        dict(pool1_kernel=(1, 3, 3), pool1_padding=(0, 1, 1)),
        dict(pool1=((1, 3, 3), (2, 2, 2), (0, 1, 1))),
    ),
}


@pytest.mark.parametrize(
    'depth, inflate, blocks, stem',
    [
        (50, True, originals.NL_5[50], '32x2'),
        (50, True, originals.NL_10, '8x8'),
        (50, False, originals.NL_5[50], 'slowfast'),
        (50, False, ((3, 4),), 'mmaction'),
        (101, True, originals.NL_5[101], '32x2'),
    ],
)
def test_nl_resnet3d(depth, inflate, blocks, stem):
    state = originals.draw_resnet3d(depth, inflate=inflate, blocks=blocks)
    clips = draw(1, 3, 16, 64, 64)
    ours, theirs = STEMS[stem]
    model = nl_resnet3d_to_mmaction.model_config(state)
    model.backbone.backbone.update(ours)
    found = logits(model, nl_resnet3d_to_mmaction.convert(state).finish(), clips)
    assert_equal(found, originals.resnet3d(state, clips, **theirs))


def test_long_clips():
    """128x1 and 32x4: norms are affine maps, res3 looks at four frames at a time."""
    state = originals.draw_resnet3d(blocks=originals.NL_5[50], affine=True)
    clips = draw(1, 3, 16, 64, 64)
    ours, theirs = STEMS['8x8']
    model = nl_resnet3d_to_mmaction.model_config(state)
    model.backbone.backbone.update(ours)
    found = logits(model, nl_resnet3d_to_mmaction.convert(state).finish(), clips)
    assert_equal(found, originals.resnet3d(state, clips, group_size=4, **theirs))
    whole = originals.resnet3d(state, clips, **theirs)
    assert (found - whole).abs().max() > 1e-3


def test_tea1528_in_its_published_layout():
    state = originals.draw_tea()
    clips = draw(1, 3, 32, 96, 96)
    model = nl_resnet3d_to_mmaction.model_config(state)
    model.backbone.backbone.legacy = True
    with pytest.warns(UserWarning, match='does not depend on the input'):
        found = logits(model, nl_resnet3d_to_mmaction.convert(state).finish(), clips)
    wanted = originals.resnet3d(
        state,
        clips,
        pool1=((3, 3, 3), (2, 2, 2), (0, 0, 0)),
        pool2=((3, 1, 1), (2, 1, 1)),
        legacy=True,
    )
    assert_equal(found, wanted)
