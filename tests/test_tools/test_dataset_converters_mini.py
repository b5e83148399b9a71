# Copyright (c) The nl_plugins authors. All rights reserved.
"""Mini data: the real sets' formats, and tasks that colour cannot solve."""

import hashlib
import importlib
import pickle

import cv2
import numpy as np
import pytest

SIZES = [
    '--cifar10', '20', '10', '--cityscapes', '5', '2',
    '--kinetics400', '8', '3', '--sthv1', '8', '3', '--coco', '6', '2',
]  # fmt: skip


@pytest.fixture
def tool(root, monkeypatch):
    """Import a module of tools/dataset_converters by name."""
    monkeypatch.syspath_prepend(str(root / 'tools' / 'dataset_converters'))
    return importlib.import_module


@pytest.fixture(scope='module')
def data(root, tmp_path_factory):
    out = tmp_path_factory.mktemp('mini')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / 'tools' / 'dataset_converters'))
        make = importlib.import_module('make_mini_data')
        assert make.main(['--out', str(out), *SIZES]) == 0
    return out


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_same_seed_same_bytes_and_another_seed_others(tool, data, tmp_path):
    main = tool('make_mini_data').main
    assert main(['--out', str(tmp_path), *SIZES]) == 0
    first = digest(data)
    assert first and digest(tmp_path) == first
    other = ['--out', str(tmp_path), *SIZES, '--seed', '1', '--only', 'cityscapes']
    assert main(other) == 0
    changed = digest(tmp_path)
    different = {name for name in first if changed.get(name) != first[name]}
    assert different and all(name.startswith('cityscapes/') for name in different)


def test_second_run_leaves_everything_alone(tool, data, capsys):
    before = {path: path.stat().st_mtime_ns for path in data.rglob('*')}
    assert tool('make_mini_data').main(['--out', str(data), *SIZES]) == 0
    assert capsys.readouterr().out.count('already in') == 5
    assert {path: path.stat().st_mtime_ns for path in data.rglob('*')} == before


def test_foreign_data_is_never_replaced(tool, tmp_path, capsys):
    (tmp_path / 'cifar10').mkdir()
    (tmp_path / 'cifar10' / 'precious').touch()
    argv = ['--out', str(tmp_path), '--only', 'cifar10']
    assert tool('make_mini_data').main(argv) == 1
    assert 'was not made by this tool' in capsys.readouterr().err
    assert [p.name for p in (tmp_path / 'cifar10').iterdir()] == ['precious']


FIRST_FILES = dict(
    cifar10='data_batch_1',
    cityscapes='_000000_000019_leftImg8bit.png',
    kinetics400='minitrain00000_000000_000010.mp4',
    sthv1='1/00001.jpg',
    coco='000000000001.jpg',
)


@pytest.mark.parametrize('name', FIRST_FILES)
def test_a_file_that_cannot_be_written_is_named_and_nothing_half_written(
    tool, tmp_path, capsys, name
):
    """A limit on the size of files stands for a full disk: a write fails like this."""
    resource = pytest.importorskip('resource')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
    try:
        argv = ['--out', str(tmp_path), '--only', name, f'--{name}', '5', '1']
        assert tool('make_mini_data').main(argv) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert '[Errno 27] File too large' in error
    assert error.rstrip().rstrip("'").endswith(FIRST_FILES[name])
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_half_written(tool, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cv2, 'imencode', lambda *args: (False, None))
    argv = ['--out', str(tmp_path), '--only', 'cityscapes']
    assert tool('make_mini_data').main(argv) == 1
    assert 'OpenCV cannot encode' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('opens', [True, False])
def test_a_missing_encoder_is_told_from_a_full_disk(
    tool, tmp_path, capsys, monkeypatch, opens
):
    class Writer:
        def __init__(self, *args) -> None: ...

        isOpened = staticmethod(lambda: opens)
        write = release = staticmethod(lambda *args: None)

    monkeypatch.setattr(cv2, 'VideoWriter', Writer)
    argv = ['--out', str(tmp_path), '--only', 'kinetics400']
    assert tool('make_mini_data').main(argv) == 1
    said = capsys.readouterr().err
    assert ('no encoder for mp4v' in said) != opens and 'minitrain00000' in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'argv', [['--seed', '-1'], ['--sthv1', '2', '1'], ['--only', 'imagenet']]
)
def test_bad_arguments(tool, argv, tmp_path):
    with pytest.raises(SystemExit) as stop:
        tool('make_mini_data').main(['--out', str(tmp_path / 'x'), *argv])
    assert stop.value.code == 2 and not (tmp_path / 'x').exists()


def test_cifar10_files(data):
    folder = data / 'cifar10' / 'cifar-10-batches-py'
    total = 0
    for name in [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch']:
        batch = pickle.loads((folder / name).read_bytes(), encoding='latin1')
        assert batch['data'].shape == (len(batch['labels']), 3072)
        total += len(batch['labels'])
    assert total == 30
    meta = pickle.loads((folder / 'batches.meta').read_bytes(), encoding='latin1')
    assert len(set(meta['label_names'])) == 10


def test_cityscapes_files(data):
    root = data / 'cityscapes'
    images = sorted((root / 'leftImg8bit').glob('*/*/*_leftImg8bit.png'))
    assert len(images) == 7
    seen = set()
    for path in images:
        name = path.name.replace('leftImg8bit', 'gtFine_labelTrainIds')
        relative = path.relative_to(root / 'leftImg8bit')
        label = cv2.imread(str(root / 'gtFine' / relative.parent / name), -1)
        assert label.shape == cv2.imread(str(path)).shape[:2]
        seen |= set(np.unique(label).tolist())
    assert seen <= set(range(19)) | {255} and len(seen) > 15


def test_kinetics_videos_decode(data):
    root = data / 'kinetics400'
    decord = pytest.importorskip('decord')
    lines = (root / 'kinetics400_val_list_videos.txt').read_text().splitlines()
    names = (root / 'label_map.txt').read_text().splitlines()
    assert len(lines) == 3 and len(names) == 8
    for line in lines:
        name, label = line.split()
        reader = decord.VideoReader(str(root / 'videos_val' / name))
        assert len(reader) == 40 and int(label) < 8
        frames = reader.get_batch([0, 39]).asnumpy()
        assert frames.shape == (2, 64, 84, 3) and frames.std() > 5


def test_sthv1_frames_are_complete(data):
    root = data / 'sthv1'
    videos = set()
    for split, count in (('train', 8), ('val', 3)):
        lines = (root / f'sthv1_{split}_list_rawframes.txt').read_text().splitlines()
        assert len(lines) == count
        for line in lines:
            video, frames, label = line.split()
            names = sorted(p.name for p in (root / 'rawframes' / video).iterdir())
            assert names == [f'{t:05d}.jpg' for t in range(1, int(frames) + 1)]
            assert 0 <= int(label) < 8
            videos.add(video)
    assert len(videos) == 11


def denoised(frames):
    return [cv2.GaussianBlur(frame, (0, 0), 2).astype(int) for frame in frames]


@pytest.mark.parametrize(
    'clip, label', [('kinetics', 0), ('sthv1', 0), ('sthv1', 2), ('sthv1', 4)]
)
def test_order_pairs_are_the_same_frames_backwards(tool, clip, label):
    draw = getattr(tool('mini_data.videos'), f'{clip}_clip')
    forwards = denoised(draw(np.random.default_rng(3), label))
    backwards = denoised(draw(np.random.default_rng(3), label + 1))
    for a, b in zip(forwards, backwards[::-1]):
        assert np.abs(a - b).max() < 12  # the noise only
    assert max(np.abs(a - b).max() for a, b in zip(forwards, backwards)) > 30


@pytest.mark.parametrize('moon, sign', [(True, False), (False, True)])
def test_only_a_distant_sign_tells_the_twin_classes(tool, moon, sign):
    module = tool('mini_data.cityscapes')
    image, label = module.draw_scene(np.random.default_rng(5), False, False)
    other, renamed = module.draw_scene(np.random.default_rng(5), moon, sign)
    twins = (3, 4) if moon else (14, 15)
    first, second = label == twins[0], renamed == twins[1]
    assert first.sum() > 200
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image[first], other[first])
    rows, columns = np.nonzero((image != other).any(axis=-1))
    distance = np.abs(columns.mean() - np.nonzero(first)[1].mean())
    assert len(rows) > 20 and distance > 80  # of 256 columns


@pytest.mark.parametrize('name', ['cifar10', 'kinetics', 'sthv1'])
def test_mean_colour_tells_no_class(tool, name):
    if name == 'cifar10':
        module = tool('mini_data.cifar10')
        count, classes = 40, 10
    else:
        module = tool('mini_data.videos')
        count, classes = 10, 8

    def feature(label, i):
        rng = np.random.default_rng([label, i])
        if name == 'cifar10':
            pixels = module.draw_image(rng, label).reshape(-1, 3)
        else:
            frames = getattr(module, f'{name}_clip')(rng, label, 10)
            pixels = np.concatenate(frames).reshape(-1, 3)
        return np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)])

    features = np.array([[feature(c, i) for i in range(count)] for c in range(classes)])
    features /= features.std(axis=(0, 1))
    centres = features[:, ::2].mean(axis=1)
    test = features[:, 1::2].reshape(-1, 1, 6)
    guess = ((test - centres) ** 2).sum(-1).argmin(-1)
    accuracy = (guess == np.repeat(np.arange(classes), count // 2)).mean()
    assert accuracy < 3.0 / classes


def test_coco_is_read_by_its_own_library(tool, data):
    """Ids, boxes, polygons and crowds of COCO; a sign decides bus or truck."""
    coco_api = pytest.importorskip('pycocotools.coco')
    coco = tool('mini_data.coco')
    folder, crowds = data / 'coco', []
    for split, count in (('train', 6), ('val', 2)):
        index = coco_api.COCO(folder / f'annotations/instances_{split}2017.json')
        assert len(index.imgs) == count and len(index.cats) == 80
        assert {index.cats[i]['name'] for i in (13, 84, 90)} == {
            'stop sign',
            'book',
            'toothbrush',
        }
        assert not set(index.cats) & {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
        for number, image in index.imgs.items():
            picture = cv2.imread(str(folder / f'{split}2017' / image['file_name']))
            assert picture.shape == (image['height'], image['width'], 3)
            things = index.imgToAnns[number]
            names = {index.cats[thing['category_id']]['name'] for thing in things}
            assert ('bus' in names) == ('stop sign' in names)
            assert ('truck' in names) == ('traffic light' in names)
            assert len(names & {'bus', 'truck'}) == 1
            for thing in things:
                mask = index.annToMask(thing)
                assert mask.sum() == pytest.approx(thing['area'], rel=0.2, abs=3)
                rows, columns = np.nonzero(mask)
                x, y, width, height = thing['bbox']
                box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                np.testing.assert_allclose(box, (x, y, x + width, y + height), atol=2)
        crowds += [thing for thing in index.anns.values() if thing['iscrowd']]
    assert crowds and all(isinstance(crowd['segmentation'], dict) for crowd in crowds)
    image, objects = coco.draw_scene(np.random.default_rng(0), True, True, True)
    (crowd,) = [thing for thing in objects if thing['iscrowd']]
    counts = crowd['segmentation']['counts']
    assert sum(counts[1::2]) == crowd['area']
    assert sum(counts) == coco.HEIGHT * coco.WIDTH


def test_bus_and_truck_look_alike(tool):
    coco = tool('mini_data.coco')
    (bus, things), (truck, _) = (
        coco.draw_scene(np.random.default_rng(3), is_bus, False, False)
        for is_bus in (True, False)
    )
    x, y, width, height = (round(v) for v in things[0]['bbox'])
    part = slice(y, y + height), slice(x, x + width)
    # Alike but for the noise, whose numbers the other sign has moved.
    difference = np.abs(bus[part].astype(int) - truck[part])
    assert difference.mean() < 8 and things[0]['name'] == 'bus'
