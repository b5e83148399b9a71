# Copyright (c) The nl_plugins authors. All rights reserved.
import tarfile

import cv2
import numpy as np
import pytest

pytest.importorskip('mmseg')

from mmengine.registry import init_default_scope  # noqa: E402
from mmseg.registry import DATASETS  # noqa: E402

PREFIX = dict(img_path='images/train', seg_map_path='labels/train')
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def write_pair(root, name, label, split='train'):
    for kind in ('images', 'labels'):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    image = np.full((*label.shape, 3), 90, np.uint8)
    assert cv2.imwrite(str(root / 'images' / split / f'{name}.jpg'), image)
    assert cv2.imwrite(str(root / 'labels' / split / f'{name}.png'), label)


def build(root, **options):
    return DATASETS.build(
        dict(
            type='CamVidDataset',
            data_root=str(root),
            data_prefix=PREFIX,
            pipeline=PIPELINE,
            **options,
        )
    )


def labels(dataset, index=0):
    return dataset[index]['data_samples'].gt_sem_seg.data[0].numpy()


def test_unlabelled_pixels_are_ignored_and_classes_kept(tmp_path):
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_pair(tmp_path, '0001TP_006690', label)
    dataset = build(tmp_path)
    assert len(dataset) == 1
    assert len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == 11
    expected = label.astype(np.int64)
    expected[label == 11] = 255
    np.testing.assert_array_equal(labels(dataset), expected)


def test_a_choice_of_classes_ignores_the_others(tmp_path):
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_pair(tmp_path, 'a', label)
    dataset = build(tmp_path, metainfo=dict(classes=('car', 'sky')))
    expected = np.full((3, 4), 255)
    expected[label == 8] = 0
    expected[label == 0] = 1
    np.testing.assert_array_equal(labels(dataset), expected)
    assert dataset.metainfo['palette'] == [[64, 0, 128], [128, 128, 128]]


def test_an_unknown_class_is_refused(tmp_path):
    write_pair(tmp_path, 'a', np.zeros((3, 4), np.uint8))
    with pytest.raises(ValueError, match='not a.*subset of classes'):
        build(tmp_path, metainfo=dict(classes=('car', 'lorry')))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='images'):
        build(tmp_path)


def test_the_published_scenes(shared, tmp_path):
    archive = shared / 'data' / 'camvid.tar'
    if not archive.is_file():
        pytest.skip(f'needs the published data in {archive}')
    with tarfile.open(archive) as tar:
        for _ in range(6):
            member = tar.next()
            path = tmp_path / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())
    dataset = build(tmp_path / 'camvid')
    seen = set()
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample['inputs'].shape == (3, 360, 480)
        seen |= set(np.unique(labels(dataset, index)).tolist())
    assert len(dataset) == 3
    assert seen <= {*range(11), 255} and {0, 1, 3, 255} <= seen
