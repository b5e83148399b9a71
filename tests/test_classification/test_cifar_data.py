# Copyright (c) The nl_plugins authors. All rights reserved.
"""CIFAR folders, list files, and what they say about damaged data."""

import pickle

import cv2
import numpy as np
import pytest

pytest.importorskip('mmpretrain')

from mmpretrain.datasets import CIFAR10  # noqa: E402

from nl_plugins.classification import (  # noqa: E402
    CIFAR10Subset,
    CIFAR100Subset,
    ListFileDataset,
)
from nl_plugins.classification.cifar import check_labels

NAMES = [f'class {i}' for i in range(10)]


def write(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'wb') as file:
        pickle.dump(content, file, protocol=2)


@pytest.fixture
def folder(tmp_path):
    """Four images a batch."""
    rng = np.random.default_rng(0)
    root = tmp_path / 'cifar-10-batches-py'
    for name in [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch']:
        data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        write(root / name, data=data, labels=rng.integers(0, 10, 4).tolist())
    write(root / 'batches.meta', label_names=NAMES)
    return tmp_path


def test_cifar10_subset(folder):
    train = CIFAR10Subset(str(folder))
    test = CIFAR10Subset(str(folder), split='test')
    assert (len(train), len(test)) == (20, 4)
    assert train.metainfo['classes'] == tuple(NAMES)
    with open(folder / 'cifar-10-batches-py' / 'data_batch_2', 'rb') as file:
        batch = pickle.load(file)
    item = train[5]
    assert item['img'].shape == (32, 32, 3) and item['img'].dtype == np.uint8
    assert item['gt_label'] == batch['labels'][1]
    red = batch['data'][1][:1024].reshape(32, 32)
    assert np.array_equal(item['img'][..., 0], red)
    named = CIFAR10Subset(str(folder), metainfo=dict(classes=list('abcdefghij')))
    assert named.metainfo['classes'] == list('abcdefghij')


def test_mmpretrain_class_keeps_its_checks(folder):
    """The published set goes through mmpretrain's own class, checksums and all."""
    with pytest.raises(RuntimeError, match='Cannot find CIFAR10'):
        CIFAR10(str(folder), download=False)
    with pytest.raises(ValueError, match='downloads nothing.*use CIFAR10'):
        CIFAR10Subset(str(folder), download=True)


def test_cifar100_subset(tmp_path):
    root = tmp_path / 'cifar-100-python'
    data = np.zeros((3, 3072), np.uint8)
    for name in ('train', 'test'):
        write(root / name, data=data, fine_labels=[0, 99, 5], coarse_labels=[0, 1, 2])
    write(root / 'meta', fine_label_names=[str(i) for i in range(100)])
    dataset = CIFAR100Subset(str(tmp_path))
    assert dataset.get_gt_labels().tolist() == [0, 99, 5]
    assert len(dataset.metainfo['classes']) == 100


class Evil:
    def __reduce__(self):
        return (print, ('executed',))


def damage_missing(path):
    path.unlink()


def damage_truncated(path):
    path.write_bytes(path.read_bytes()[:3000])


def damage_labels(path):
    write(path, data=np.zeros((2, 3072), np.uint8), labels=[3, 10])


def damage_count(path):
    write(path, data=np.zeros((2, 3072), np.uint8), labels=[3])


def damage_shape(path):
    write(path, data=np.zeros((2, 3000), np.uint8), labels=[3, 4])


def damage_code(path):
    write(path, data=Evil(), labels=[1])


@pytest.mark.parametrize(
    'damage, message',
    [
        (damage_missing, 'needs .*data_batch_3, which does not exist: check data_root'),
        (damage_truncated, 'data_batch_3 is damaged'),
        (damage_labels, r'data_batch_3 has 1 labels outside 0..9 .* the first is 10'),
        (damage_count, '2 images, but 1 labels'),
        (damage_shape, r'must hold uint8 images \(N, 3072\), but holds uint8 .*3000'),
        (damage_code, 'print, which is not loaded because it could run code'),
    ],
)
def test_damaged_folder(folder, damage, message, capsys):
    damage(folder / 'cifar-10-batches-py' / 'data_batch_3')
    with pytest.raises(ValueError, match=message):
        CIFAR10Subset(str(folder))
    assert 'executed' not in capsys.readouterr().out
    assert len(CIFAR10Subset(str(folder), split='test')) == 4


@pytest.fixture
def images(tmp_path):
    (tmp_path / 'img').mkdir()
    for name, value in (('a.png', 10), ('b c,d.png', 20)):
        cv2.imwrite(str(tmp_path / 'img' / name), np.full((5, 6, 3), value, np.uint8))
    return tmp_path


@pytest.mark.parametrize('separator', [' ', ',', ' , ', '\t', '   '])
def test_list_file(images, separator):
    """CGNL's lists are 'path label', those of the SNL repository 'path,label'."""
    lines = f'a.png{separator}0\n\nb c,d.png{separator}3\n'
    (images / 'list.txt').write_text(lines)
    dataset = ListFileDataset(
        'list.txt',
        'img',
        num_classes=4,
        data_root=str(images),
        pipeline=[dict(type='LoadImageFromFile')],
    )
    assert dataset.get_gt_labels().tolist() == [0, 3]
    assert [item['img'][0, 0, 0] for item in (dataset[0], dataset[1])] == [10, 20]
    assert dataset.metainfo['classes'] == ('0', '1', '2', '3')


@pytest.mark.parametrize(
    'line, message',
    [
        ('a.png', "line 2: expected 'path label' or 'path,label', but got 'a.png'"),
        ('a.png one', 'line 2: expected'),
        ('a.png 2', r'line 2, has 1 labels outside 0..1 \(there are 2 classes\)'),
        ('a.png,-1', 'line 2, has 1 labels outside'),
    ],
)
def test_bad_list(images, line, message):
    (images / 'list.txt').write_text(f'a.png 0\n{line}\n')
    with pytest.raises(ValueError, match=message):
        ListFileDataset('list.txt', 'img', 2, data_root=str(images))


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'names no image'),
        (b' \n\n', 'names no image'),
        ('a.png 0\n'.encode('utf-16'), 'is not UTF-8'),
        ('a.png 0\n'.encode('utf-16-le'), 'holds NUL bytes'),
        ('b\xe9.png 0\n'.encode('latin1'), 'is not UTF-8'),
        (b'/etc/a.png 0\n', 'line 1: .* leaves the folder'),
        (b'a.png 0\n../a.png 0\n', 'line 2: .* leaves the folder'),
        (b'x/../../a.png 0\n', 'line 1: .* leaves the folder'),
        (b's3://bucket/a.png 0\n', 'line 1: .* leaves the folder'),
    ],
)
def test_hostile_lists(images, content, message):
    (images / 'list.txt').write_bytes(content)
    with pytest.raises(ValueError, match=f'list.txt.*{message}'):
        ListFileDataset('list.txt', 'img', 2, data_root=str(images))


def test_lists_that_are_taken(images):
    (images / 'list.txt').write_bytes('\ufeffa.png 0\r\n../img/a.png 1\n'.encode())
    dataset = ListFileDataset(
        'list.txt', 'img', 2, allow_outside=True, data_root=str(images)
    )
    assert dataset.get_gt_labels().tolist() == [0, 1]
    assert dataset.get_data_info(0)['img_path'].endswith('img/a.png')


@pytest.mark.parametrize(
    'names, message',
    [
        ('ab', "label_names must be a list of class names, but got 'ab'"),
        ([], 'must be a list of class names'),
        ([1, 2], 'must be a list of class names'),
        (None, 'must be a list of class names'),
        (['a', 'a'], "holds the class name 'a' more than once"),
    ],
)
def test_bad_class_names(folder, names, message):
    write(folder / 'cifar-10-batches-py' / 'batches.meta', label_names=names)
    with pytest.raises(
        ValueError,
        match=f'batches.meta: label_names.*{message}|batches.meta: {message}',
    ):
        CIFAR10Subset(str(folder))


@pytest.mark.parametrize('label', [1.7, 1.0, '1', None, True, float('nan')])
def test_labels_are_integers(label):
    with pytest.raises(ValueError, match='batch has 1 labels that are not integers'):
        check_labels([0, label], ('a', 'b'), 'batch')


def test_list_file_errors(images):
    with pytest.raises(ValueError, match='none.txt cannot be read'):
        ListFileDataset('none.txt', 'img', 2, data_root=str(images))
    with pytest.raises(ValueError, match=r'classes=\[...\] \(names\) or num_classes'):
        ListFileDataset('list.txt', 'img', data_root=str(images))


def test_corrupt_image(images):
    """mmcv names the file."""
    (images / 'img' / 'a.png').write_bytes(b'no picture')
    (images / 'list.txt').write_text('a.png 0\n')
    pipeline = [dict(type='LoadImageFromFile')]
    dataset = ListFileDataset(
        'list.txt', 'img', 1, data_root=str(images), pipeline=pipeline
    )
    with pytest.raises(AssertionError, match='failed to load image: .*a.png'):
        dataset[0]
