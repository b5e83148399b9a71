# Copyright (c) The nl_plugins authors. All rights reserved.
"""Crops, resizing and flow: pixels against PIL and against the protocol."""

import cv2
import numpy as np
import pytest

pytest.importorskip('mmaction')

import torch  # noqa: E402
from mmaction.registry import METRICS, MODELS, TRANSFORMS  # noqa: E402
from PIL import Image  # noqa: E402

import nl_plugins  # noqa: E402, F401


def run(cfg, imgs, **results):
    results.update(imgs=imgs, img_shape=imgs[0].shape[:2])
    results.setdefault('modality', 'RGB')
    return TRANSFORMS.build(cfg)(results)


def frames(height, width, channels=3, num=2):
    rng = np.random.default_rng(height * 1000 + width)
    size = (height, width, channels)
    return [rng.integers(0, 256, size, dtype=np.uint8) for _ in range(num)]


@pytest.mark.parametrize(
    'width, height', [(340, 256), (341, 256), (342, 256), (343, 256), (256, 301)]
)
def test_three_crops_lie_on_quarters_of_the_long_side(width, height):
    imgs = frames(height, width)
    found = run(dict(type='FullResThreeCrop', crop_size=256), imgs)['imgs']
    s = (max(width, height) - 256) // 4
    wanted = []
    for offset in (0, 4 * s, 2 * s):
        x, y = (offset, 0) if width > height else (0, offset)
        wanted += [img[y : y + 256, x : x + 256] for img in imgs]
    assert len(found) == 6
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted))


def test_three_crops_smaller_than_the_short_side():
    img = frames(256, 341)[0]
    result = run(dict(type='FullResThreeCrop', crop_size=224), [img])
    boxes = [(0, 16), (116, 16), (58, 16)]  # s = 117 // 4 = 29, 2 * (32 // 4) = 16
    for crop, (x, y) in zip(result['imgs'], boxes):
        assert np.array_equal(crop, img[y : y + 224, x : x + 224])
    assert result['img_shape'] == (224, 224)


@pytest.mark.parametrize('name', ['FullResThreeCrop', 'PILCenterCrop'])
def test_too_small_frames_are_refused(name):
    with pytest.raises(ValueError, match='frames of 30x20 are smaller'):
        run(dict(type=name, crop_size=24), frames(20, 30))


def test_upstream_three_crop_agrees_where_four_divides():
    imgs = frames(64, 84)
    ours = run(dict(type='FullResThreeCrop', crop_size=64), imgs)
    theirs = run(dict(type='ThreeCrop', crop_size=64), imgs)
    assert all(np.array_equal(a, b) for a, b in zip(ours['imgs'], theirs['imgs']))
    assert np.array_equal(ours['crop_bbox'], theirs['crop_bbox'])


@pytest.mark.parametrize('width, height', [(84, 64), (85, 64), (64, 91)])
def test_resize_is_pils(width, height):
    img = frames(height, width)[0]
    result = run(dict(type='PILResize', scale=(-1, 50)), [img])
    short = min(width, height)
    size = int(50 * width / short), int(50 * height / short)
    wanted = np.asarray(Image.fromarray(img).resize(size, Image.BILINEAR))
    assert np.array_equal(result['imgs'][0], wanted)
    assert result['img_shape'] == wanted.shape[:2]


def test_resize_of_flow_treats_the_channels_alike():
    img = frames(40, 52, channels=2)[0]
    cfg = dict(type='PILResize', scale=(24, 20), keep_ratio=False)
    found = run(cfg, [img])['imgs'][0]
    for channel in range(2):
        one = Image.fromarray(np.ascontiguousarray(img[..., channel]))
        wanted = np.asarray(one.resize((24, 20), Image.BILINEAR))
        assert np.array_equal(found[..., channel], wanted)


def test_resize_wants_a_short_side():
    with pytest.raises(ValueError, match='short side'):
        TRANSFORMS.build(dict(type='PILResize', scale=(340, 256)))


@pytest.mark.parametrize('extra, offset', [(0, 0), (1, 0), (2, 1), (3, 2), (5, 2)])
def test_centre_crop_rounds_half_to_even(extra, offset):
    img = frames(32, 32 + extra)[0]
    found = run(dict(type='PILCenterCrop', crop_size=32), [img])['imgs'][0]
    assert np.array_equal(found, img[:, offset : offset + 32])


@pytest.mark.parametrize('invert', [True, False])
def test_flow_flip_mirrors_the_motion(invert):
    imgs = frames(6, 9, channels=2, num=3)
    before = [img.copy() for img in imgs]
    cfg = dict(type='FlowFlip', flip_ratio=1.0, invert_u=invert)
    found = run(cfg, imgs, modality='Flow')['imgs']
    for old, new in zip(before, found):
        u = 255 - old[:, ::-1, 0] if invert else old[:, ::-1, 0]
        assert np.array_equal(new[..., 0], u)
        assert np.array_equal(new[..., 1], old[:, ::-1, 1])


def test_flow_flip_twice_is_the_identity():
    imgs = frames(6, 9, channels=2, num=3)
    before = [img.copy() for img in imgs]
    cfg = dict(type='FlowFlip', flip_ratio=1.0)
    once = run(cfg, imgs, modality='Flow')['imgs']
    twice = run(cfg, once, modality='Flow')['imgs']
    assert all(np.array_equal(a, b) for a, b in zip(before, twice))


def test_flow_flip_refuses_pictures():
    with pytest.raises(ValueError, match=r'\(H, W, 2\)'):
        run(dict(type='FlowFlip', flip_ratio=1.0), frames(4, 4), modality='Flow')


@pytest.fixture
def flow_video(tmp_path):
    """Four frames in separate trees: u = 10 t, v = 100 + t."""
    for axis, level in (('u', lambda t: 10 * t), ('v', lambda t: 100 + t)):
        folder = tmp_path / axis / 'clip'
        folder.mkdir(parents=True)
        for t in range(1, 5):
            grey = np.full((8, 10), level(t), dtype=np.uint8)
            cv2.imwrite(str(folder / f'frame{t:06d}.jpg'), grey)
    return tmp_path


def decode(root, inds, frame_dir='u/clip', **cfg):
    return TRANSFORMS.build(dict(type='FlowFolderDecode', **cfg))(
        dict(
            frame_dir=str(root / frame_dir),
            filename_tmpl='frame{:06}.jpg',
            frame_inds=np.array(inds),
            modality='Flow',
        )
    )


def test_flow_is_read_from_two_trees(flow_video):
    result = decode(flow_video, [2, 4, 2])
    assert [img.shape for img in result['imgs']] == [(8, 10, 2)] * 3
    assert [img[0, 0].tolist() for img in result['imgs']] == [
        [20, 102],
        [40, 104],
        [20, 102],
    ]
    assert not np.shares_memory(result['imgs'][0], result['imgs'][2])


def test_flow_folder_errors(flow_video):
    with pytest.raises(ValueError, match="no folder 'x'"):
        decode(flow_video, [1], components=('x', 'y'))
    with pytest.raises(FileNotFoundError, match='frame000009'):
        decode(flow_video, [9])
    (flow_video / 'v/clip/frame000003.jpg').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='frame000003.jpg is not a readable picture'):
        decode(flow_video, [3])


@pytest.mark.parametrize(
    'mean, formula',
    [
        (234.828, lambda v: 2 * (v - 107.328) / 255 - 1),
        (127.5, lambda v: 2 * v / 255 - 1),
    ],
)
def test_flow_normalisation(mean, formula):
    """Grey level v becomes 2 (v - 107.328) / 255 - 1, or I3D's 2 v / 255 - 1."""
    preprocessor = MODELS.build(
        dict(
            type='ActionDataPreprocessor',
            mean=[mean] * 2,
            std=[127.5] * 2,
            format_shape='NCTHW',
        )
    )
    v = torch.arange(256).reshape(1, 1, 1, 16, 16).expand(1, 2, 1, 16, 16)
    data = dict(inputs=[v], data_samples=[None])
    found = preprocessor(data)['inputs']
    torch.testing.assert_close(found[0], formula(v.float()), rtol=0, atol=1e-5)


@pytest.mark.parametrize('average_clips', ['prob', 'score'])
def test_validation_loss_is_the_cross_entropy(average_clips):
    logits = torch.randn(5, 7)
    labels = torch.randint(7, (5,))
    scores = logits.softmax(1) if average_clips == 'prob' else logits
    metric = METRICS.build(dict(type='CrossEntropyMetric', average_clips=average_clips))
    metric.process(
        None, [dict(pred_score=s, gt_label=y[None]) for s, y in zip(scores, labels)]
    )
    found = metric.evaluate(5)
    wanted = torch.nn.functional.cross_entropy(logits, labels).item()
    assert found == {'val/loss': pytest.approx(wanted, rel=1e-5)}
