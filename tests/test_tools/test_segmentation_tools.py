# Copyright (c) The nl_plugins authors. All rights reserved.
"""The pictures and measurements that the segmentation docs show."""

import argparse
import importlib

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402

CONFIG = 'configs/segmentation/snl/snl_r18-d16_1xb4-400_camvid-180x240.py'


@pytest.fixture
def compare(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'tools' / 'visualization'))
    return importlib.import_module('compare_segmentation')


@pytest.fixture
def full_resolution(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'tools' / 'analysis_tools'))
    yield importlib.import_module('full_resolution')
    # It accelerates the classes of this process.
    importlib.import_module('nl_plugins.accelerate').undo()


def test_labels_are_painted_in_their_colours(compare):
    labels = np.array([[0, 1], [255, 1]])
    painted = compare.paint(labels, [[9, 8, 7], [1, 2, 3]])
    expected = [[[9, 8, 7], [1, 2, 3]], [[0, 0, 0], [1, 2, 3]]]
    np.testing.assert_array_equal(painted, expected)


def test_layout_places_every_picture(compare):
    rows = [
        [np.full((6, 8, 3), 40 * row + 10 * column, np.uint8) for column in range(3)]
        for row in range(2)
    ]
    grid = compare.layout(rows, ['a', 'b', 'c'], width=16)
    height = compare.TITLE_HEIGHT + 2 * 12 + compare.GAP
    assert grid.shape == (height, 3 * 16 + 2 * compare.GAP, 3)
    for row in range(2):
        for column in range(3):
            top = compare.TITLE_HEIGHT + row * (12 + compare.GAP)
            left = column * (16 + compare.GAP)
            cell = grid[top : top + 12, left : left + 16]
            assert (cell == 40 * row + 10 * column).all()
    # A title above each column.
    assert all(
        (grid[: compare.TITLE_HEIGHT, c * 20 : c * 20 + 16] < 128).any()
        for c in range(3)
    )


@pytest.fixture
def trained(root, tmp_path):
    """A config on two tiny scenes and a checkpoint that predicts class 3 alone."""
    for kind in ('images', 'labels'):
        (tmp_path / 'data' / kind / 'test').mkdir(parents=True)
    for i, name in enumerate('ab'):
        image = np.full((36, 48, 3), 60 + 90 * i, np.uint8)
        label = np.full((36, 48), 8, np.uint8)
        label[:, :24] = 11
        cv2.imwrite(str(tmp_path / 'data' / 'images' / 'test' / f'{name}.jpg'), image)
        cv2.imwrite(str(tmp_path / 'data' / 'labels' / 'test' / f'{name}.png'), label)
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {str(root / CONFIG)!r}\n'
        f'data_root = {str(tmp_path / "data")!r}\n'
        'test_dataloader = dict(dataset=dict(data_root=data_root))\n'
    )
    init_default_scope('mmseg')
    model = MODELS.build(Config.fromfile(config).model)
    model.decode_head.conv_seg.bias.data[3] = 1e6
    checkpoint = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), checkpoint)
    return config, checkpoint


def test_comparison_shows_input_truth_and_prediction(compare, trained, tmp_path):
    config, checkpoint = trained
    out = tmp_path / 'picture.png'
    models = [f'SNL={config}:{checkpoint}']
    indices = ['--indices', '1', '0', '--width', '48']
    assert compare.main([str(out), '--models', *models, *indices]) == 0
    picture = cv2.imread(str(out))[..., ::-1]
    first = picture[compare.TITLE_HEIGHT :][:36]
    photo, truth, prediction = (first[:, c * 52 :][:, :48] for c in range(3))
    assert abs(int(photo.mean()) - 150) < 3
    assert (truth[:, :24] == 0).all() and (truth[:, 24:] == [64, 0, 128]).all()
    assert (prediction == [128, 64, 128]).all()
    second = picture[compare.TITLE_HEIGHT + 36 + compare.GAP :][:36, :48]
    assert abs(int(second.mean()) - 60) < 3


def test_comparison_refuses_in_one_sentence(compare, trained, tmp_path, capsys):
    config, checkpoint = trained
    out = tmp_path / 'picture.png'
    argv = [str(out), '--models', f'SNL={config}:{checkpoint}', '--indices', '7']
    assert compare.main(argv) == 1
    assert 'pictures 0..1' in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(argparse.ArgumentTypeError, match='TITLE=CONFIG:CHECKPOINT'):
        compare.parse_model('SNL')
    with pytest.raises(argparse.ArgumentTypeError, match='no.py does not exist'):
        compare.parse_model('SNL=no.py:no.pth')


@pytest.mark.parametrize('part', ['block', 'conv', 'dense', 'model', 'dense-model'])
def test_each_part_is_measured(full_resolution, root, part):
    result = full_resolution.measure(root / CONFIG, part, (128, 128), 'cpu')
    assert result['seconds'] > 0 and result['cpu_seconds'] > 0
    assert result['bytes'] >= 0


def test_fast_block_needs_less_memory_than_dense(full_resolution, root):
    # A process that has freed as much already would not grow.
    args = argparse.Namespace(device='cpu')
    used = {
        part: full_resolution.in_subprocess(args, str(root / CONFIG), part, (320, 640))[
            'bytes'
        ]
        for part in ('block', 'dense')
    }
    matrix = full_resolution.dense_bytes((320, 640))
    assert matrix == 4 * (40 * 80) ** 2
    assert used['dense'] > matrix > 2 * used['block']


@pytest.mark.parametrize('part', ['block', 'conv', 'dense'])
def test_stock_heads_have_a_block(full_resolution, part):
    for config in full_resolution.STOCK:
        assert full_resolution.measure(config, part, (64, 64), 'cpu')['seconds'] > 0


def test_memory_is_drawn(full_resolution, tmp_path):
    rows = [
        dict(config=config, part=part, image='1x1', bytes=2**30)
        for config in full_resolution.STOCK[:2]
        for part in ('model', 'dense-model')
    ]
    full_resolution.draw(rows[:3], tmp_path / 'memory.png')
    assert (tmp_path / 'memory.png').stat().st_size > 5000
    assert not list(tmp_path.glob('*.tmp*'))


def test_memory_of_a_dense_network_is_estimated(full_resolution):
    config = full_resolution.STOCK[0]

    def row(part, image, number=None):
        found = dict(config=config, part=part, image=image)
        return found if number is None else {**found, 'bytes': number}

    asked = row('dense-model', '64x32')
    assert full_resolution.estimate([row('model', '32x16', 9)], asked) is None
    matrix = 4 * 8**2
    figures = [row('dense-model', '32x16', 2 * matrix + 5)]
    # Four times the pixels, sixteen times each matrix.
    expected = {**asked, 'bytes': 2 * 16 * matrix + 4 * 5, 'estimated': True}
    found = full_resolution.estimate(figures, asked)
    assert found == expected
    assert full_resolution.estimate([*figures, found], asked) == expected


def test_sizes_are_checked(full_resolution):
    assert full_resolution.parse_size('512x1024') == (512, 1024)
    for text in ('512', '512x', '513x1024'):
        with pytest.raises(argparse.ArgumentTypeError):
            full_resolution.parse_size(text)


def test_dense_is_left_out_where_it_does_not_fit(full_resolution, root, capsys):
    argv = [str(root / CONFIG), '--sizes', '2048x4096', '--parts', 'dense']
    assert full_resolution.main(argv) == 0
    assert 'one N x N matrix is 64 GiB' in capsys.readouterr().out
