# Copyright (c) The nl_plugins authors. All rights reserved.
"""Real clips through every test protocol of the recipes, in a quarter of the size."""

import math
from pathlib import Path

import pytest

pytest.importorskip('mmaction')

import cv2  # noqa: E402
import decord  # noqa: E402
import torch  # noqa: E402
from mmaction.registry import MODELS, TRANSFORMS  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.dataset import Compose, pseudo_collate  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

import nl_plugins  # noqa: E402, F401

BASES = Path(__file__).resolve().parents[2] / 'configs/recognition/_base_/datasets'
CLIPS = {  # frames
    'arm_wrestling.mp4': 280,
    'spatiotemporal.mp4': 57,
    'test.avi': 164,
    'test.mp4': 300,
}
# Data set config -> frames of a view, views of a video with n frames.
PROTOCOLS = {
    'kinetics400_dense_1x1x8': (8, lambda n: 10 * 3),
    'kinetics400_dense_1x1x16': (16, lambda n: 10 * 3),
    'sthv1_1x1x8': (8, lambda n: 2 * 3),
    'sthv1_1x1x16': (16, lambda n: 2 * 3),
    'kinetics400_8x8x1': (8, lambda n: 10 * 3),
    'kinetics400_32x2x1': (32, lambda n: 10 * 3),
    'kinetics400_32x4x1': (32, lambda n: 10 * 3),
    'kinetics400_128x1x1': (128, lambda n: 10 * 3),
    'hmdb51_64x1x1_flow': (64, lambda n: math.ceil((n - 1) / 64)),
}
# Sets tested as another one, under their own file names.
TWINS = {
    'sthv2_1x1x8': 'sthv1_1x1x8',
    'sthv2_1x1x16': 'sthv1_1x1x16',
    'hmdb51_1x1x8': 'sthv1_1x1x8',
    'ucf101_1x1x8': 'sthv1_1x1x8',
}
QUARTER = {256: 64, 224: 56}


@pytest.fixture(autouse=True)
def mmaction_scope():
    with DefaultScope.overwrite_default_scope('mmaction'):
        yield


@pytest.fixture(scope='module')
def extracted(tmp_path_factory):
    """Extracts a clip once: pictures and, for the flow protocol, grey u and v."""
    root, done = tmp_path_factory.mktemp('frames'), set()

    def extract(path):
        if path.name in done:
            return root
        done.add(path.name)
        for t, frame in enumerate(decord.VideoReader(str(path), num_threads=1), 1):
            picture = cv2.resize(frame.asnumpy(), (85, 64))
            for folder, name, content in (
                ('rgb', f'{t:05}.jpg', picture),
                ('u', f'frame{t:06}.jpg', picture[..., 0]),
                ('v', f'frame{t:06}.jpg', picture[..., 1]),
            ):
                target = root / folder / path.name
                target.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(target / name), content)
        return root

    return extract


def quarter(transform):
    """The same transform with a quarter of the sizes."""
    smaller = dict(transform)
    for option in ('scale', 'crop_size'):
        if option in smaller:
            size = smaller[option]
            smaller[option] = (
                tuple(QUARTER.get(s, s) for s in size)
                if isinstance(size, tuple | list)
                else QUARTER[size]
            )
    return smaller


def network(stacked, segments, channels):
    if stacked:
        backbone = dict(
            type='NonLocalBackbone',
            backbone=dict(
                type='ResNet',
                depth=18,
                num_stages=1,
                out_indices=(0,),
                strides=(2,),
                dilations=(1,),
            ),
            inserts=[
                dict(
                    after='layer1.0',
                    num_segments=segments,
                    cfg=dict(
                        type='RNLBlock', ndim=3, kernel_size=(3, 3, 3), reduction=8
                    ),
                )
            ],
        )
        head = dict(
            type='TSMHead',
            num_segments=segments,
            num_classes=5,
            in_channels=64,
            average_clips='score',
        )
    else:
        backbone = dict(
            type='NonLocalBackbone',
            backbone=dict(
                type='ResNet3d',
                depth=18,
                pretrained=None,
                pretrained2d=False,
                in_channels=channels,
                base_channels=8,
                num_stages=1,
                out_indices=(0,),
                spatial_strides=(2,),
                temporal_strides=(2,),
                dilations=(1,),
                inflate=(0,),
                conv1_kernel=(1, 7, 7),
                conv1_stride_t=2,
                pool1_stride_t=1,
            ),
            inserts=[dict(after='layer1.1', cfg=dict(type='NLBlock', ndim=3))],
        )
        head = dict(type='I3DHead', num_classes=5, in_channels=8, average_clips='score')
    model = MODELS.build(
        dict(
            type='Recognizer2D' if stacked else 'Recognizer3D',
            backbone=backbone,
            cls_head=head,
            data_preprocessor=dict(
                type='ActionDataPreprocessor',
                mean=[127.5] * channels,
                std=[127.5] * channels,
                format_shape='NCHW' if stacked else 'NCTHW',
            ),
        )
    )
    torch.nn.init.normal_(model.cls_head.fc_cls.weight)
    return model.eval()


@pytest.mark.parametrize('clip', CLIPS)
@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_protocol(shared, extracted, clip, protocol):
    path = shared / 'data' / 'video' / clip
    frames, views_of = PROTOCOLS[protocol]
    num_frames, views = CLIPS[clip], views_of(CLIPS[clip])
    cfg = Config.fromfile(BASES / f'{protocol}.py')
    dataset = cfg.test_dataloader.dataset
    pipeline = [quarter(t) for t in dataset.pipeline]
    flow = dataset.get('modality') == 'Flow'
    results = dict(label=0, modality='Flow' if flow else 'RGB', start_index=0)
    if dataset.type == 'CheckedVideoDataset':
        results['filename'] = str(path)
    else:
        results.update(
            frame_dir=str(extracted(path) / ('u' if flow else 'rgb') / clip),
            filename_tmpl=dataset.filename_tmpl,
            total_frames=num_frames,
            start_index=1,
        )
    data = Compose([TRANSFORMS.build(t) for t in pipeline])(results)
    stacked = dict(type='FormatShape', input_format='NCHW') in pipeline
    channels = 2 if flow else 3
    side = 56 if flow else 64
    shape = (
        (views * frames, channels, side, side)
        if stacked
        else (views, channels, frames, side, side)
    )
    assert data['inputs'].shape == shape

    torch.manual_seed(0)
    model = network(stacked, frames, channels)
    with torch.no_grad():
        (sample,) = model.test_step(pseudo_collate([data]))
        score = sample.pred_score
        one_view = data['inputs'][: frames if stacked else 1]
        first = model.test_step(
            dict(inputs=[one_view], data_samples=[data['data_samples']])
        )[0].pred_score
    assert score.shape == (5,) and torch.isfinite(score).all()
    assert torch.isfinite(first).all()
    assert views == 1 or not torch.allclose(first, score)


def test_every_protocol_of_the_recipes_is_here():
    sets = {p.stem for p in BASES.glob('*.py') if not p.stem.startswith('mini_')}
    assert sets == {*PROTOCOLS, *TWINS, 'kinetics400', 'loaders'}
    for name, twin in TWINS.items():
        ours, theirs = (
            Config.fromfile(BASES / f'{n}.py').test_dataloader.dataset.pipeline
            for n in (name, twin)
        )
        assert ours == theirs


def test_scores_of_views_are_averaged(shared):
    """Logit averaging over 10 clips x 3 crops, view by view."""
    cfg = Config.fromfile(BASES / 'kinetics400_dense_1x1x8.py')
    pipeline = [quarter(t) for t in cfg.test_dataloader.dataset.pipeline]
    results = dict(filename=str(shared / 'data/video/test.mp4'), label=0, start_index=0)
    results['modality'] = 'RGB'
    data = Compose([TRANSFORMS.build(t) for t in pipeline])(results)
    torch.manual_seed(0)
    model = network(True, 8, 3)
    with torch.no_grad():
        score = model.test_step(pseudo_collate([data]))[0].pred_score
        logits = [
            model.test_step(
                dict(
                    inputs=[data['inputs'][8 * view : 8 * view + 8]],
                    data_samples=[data['data_samples']],
                )
            )[0].pred_score.clone()
            for view in range(30)
        ]
    torch.testing.assert_close(score, torch.stack(logits).mean(0), rtol=1e-5, atol=1e-5)
