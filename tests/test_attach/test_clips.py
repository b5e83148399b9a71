# Copyright (c) The nl_plugins authors. All rights reserved.
"""Frames belong to their clip: for each sample, whatever the batch."""

import pytest
import torch

from nl_plugins.attach.layout import frames_to_clip, samples_of

from .networks import NL, NL3D, SHORT, build

pytest.importorskip('mmaction')


def _recogniser(backbone=None, insert=None, head='TSNHead', **options):
    backbone = backbone or dict(type='ResNet', depth=18, num_stages=2, out_indices=(1,))
    if backbone['type'] == 'ResNet':
        backbone.update(strides=(1, 2), dilations=(1, 1))
    if insert:
        backbone = dict(
            type='NonLocalBackbone',
            backbone=backbone,
            inserts=[dict(after='layer2.0', cfg=NL3D, **insert)],
        )
    return build(
        'mmaction',
        dict(
            type='Recognizer2D',
            backbone=backbone,
            cls_head=dict(type=head, num_classes=3, in_channels=128, **options),
        ),
    ).eval()


def _spy(model):
    seen = []
    block = model.backbone.get_submodule('.'.join(model.backbone.inserted_blocks[0]))
    block.register_forward_pre_hook(lambda m, args: seen.append(tuple(args[0].shape)))
    return seen


@pytest.mark.parametrize('batch', [1, 2, 8])
def test_frames_of_videos_are_never_mixed(batch):
    model = _recogniser(insert=dict(num_segments=8))
    seen = _spy(model)
    model(torch.randn(batch, 16, 3, 16, 16), mode='tensor')
    assert seen == [(batch * 2, 128, 8, 2, 2)]
    with pytest.raises(ValueError, match='does not divide the 25 frames of one of its'):
        model(torch.randn(batch, 25, 3, 16, 16), mode='tensor')


def test_the_backbones_own_segments_too():
    model = _recogniser(
        dict(type='ResNetTSM', depth=18, num_segments=8, pretrained2d=False)
    )
    with pytest.raises(
        ValueError, match='num_segments=8, which does not divide the 25'
    ):
        model(torch.randn(8, 25, 3, 16, 16), mode='tensor')
    model(torch.randn(2, 16, 3, 16, 16), mode='tensor')


def test_segments_follow_the_input_where_the_recogniser_knows_it():
    from mmaction.structures import ActionDataSample

    model = _recogniser(insert=dict(num_segments='input')).train()
    seen = _spy(model)
    model(torch.randn(2, 3, 3, 16, 16), mode='tensor')
    sample = ActionDataSample().set_gt_label(1)
    model(torch.randn(1, 3, 3, 16, 16), [sample], mode='loss')
    model.eval()
    with pytest.raises(ValueError, match="add 'num_clips' to meta_keys"):
        model(torch.randn(1, 10, 3, 16, 16), [sample], mode='predict')
    sample.set_metainfo(dict(num_clips=5))
    model(torch.randn(1, 10, 3, 16, 16), [sample], mode='predict')
    assert [shape[:3] for shape in seen] == [(2, 128, 3), (1, 128, 3), (2, 128, 5)]
    with pytest.raises(ValueError, match='needs a recogniser'):
        model.backbone(torch.randn(3, 3, 16, 16))


def test_pooled_frames_follow_too():
    with samples_of(2, frames=8, clip=4):
        assert frames_to_clip(torch.zeros(8, 5, 1, 1), 'input').shape[:3] == (4, 5, 2)


def test_segments_against_the_clips_of_a_test():
    """30 frames that are three crops of 10 are five times 6, but 10 are not."""
    from mmaction.structures import ActionDataSample

    model = _recogniser(insert=dict(num_segments=6))
    sample = ActionDataSample()
    sample.set_metainfo(dict(num_clips=10))
    with pytest.raises(ValueError, match='does not divide the 10 frames of one of the'):
        model(torch.randn(1, 30, 3, 16, 16), [sample], mode='predict')
    for num_clips in (6, 5):  # five crops, or five clips of six frames
        sample.set_metainfo(dict(num_clips=num_clips))
        model(torch.randn(1, 30, 3, 16, 16), [sample], mode='predict')


@pytest.mark.parametrize('given', [8, 'input'])
def test_segments_against_those_of_the_head(given):
    """TSM's head knows the frames of a clip, of which a test may hold two."""
    model = _recogniser(insert=dict(num_segments=given), head='TSMHead', num_segments=8)
    seen = _spy(model)
    for test_mode in (False, True):
        model.extract_feat(torch.randn(1, 16, 3, 16, 16), test_mode=test_mode)
    assert [shape[:3] for shape in seen] == [(2, 128, 8)] * 2
    model = _recogniser(insert=dict(num_segments=16), head='TSMHead', num_segments=8)
    with pytest.raises(
        ValueError, match='num_segments=16 does not divide the 8 frames'
    ):
        model.extract_feat(torch.randn(1, 16, 3, 16, 16), test_mode=True)


@pytest.mark.parametrize('segments, works', [(4, True), (8, False)])
def test_parts_of_the_views_of_a_test(segments, works):
    model = build(
        'mmaction',
        dict(
            type='Recognizer3D',
            backbone=dict(
                type='NonLocalBackbone',
                backbone=dict(type='C2D', **_C2D),
                inserts=[dict(after='layer2.0', num_segments=segments, cfg=NL3D)],
            ),
            cls_head=dict(type='I3DHead', num_classes=3, in_channels=128),
            test_cfg=dict(max_testing_views=4),
        ),
    ).eval()
    seen, views = _spy(model), torch.randn(1, 6, 3, 8, 16, 16)
    if works:
        model.extract_feat(views, test_mode=True)
        assert [shape[:3] for shape in seen] == [(4, 128, 4), (2, 128, 4)]
    else:
        with pytest.raises(ValueError, match='num_segments=8 does not divide the 4'):
            model.extract_feat(views, test_mode=True)


_C2D = dict(depth=18, num_stages=2, out_indices=(1,), strides=(1, 2), dilations=(1, 1))


def test_clips_of_a_3d_recogniser():
    model = build(
        'mmaction',
        dict(
            type='Recognizer3D',
            backbone=dict(
                type='NonLocalBackbone',
                backbone=dict(type='C2D', **_C2D),
                inserts=[dict(after='layer2.0', num_segments='input', cfg=NL3D)],
            ),
            cls_head=dict(type='I3DHead', num_classes=3, in_channels=128),
        ),
    ).eval()
    seen = _spy(model)
    model(torch.randn(2, 3, 3, 8, 16, 16), mode='tensor')
    assert [shape[:3] for shape in seen] == [(6, 128, 4)]


@pytest.mark.parametrize(
    'name, insert, words',
    [
        ('mmaction-tsm', dict(num_segments=2, cfg=NL3D), 'give num_segments=4'),
        ('mmaction-tsm', dict(num_segments=16, cfg=NL3D), 'give num_segments=4'),
        ('mmaction-tsm', dict(num_segments=4, cfg=NL), 'give ndim=3 in its cfg'),
        ('mmaction-i3d', dict(num_segments=4, cfg=NL3D), 'leave num_segments out'),
    ],
)
def test_mistakes_about_segments(name, insert, words):
    from dataclasses import replace

    network = replace(SHORT[name], inserts=[dict(after='layer1.1', **insert)])
    with pytest.raises(ValueError, match=words):
        network.build()
