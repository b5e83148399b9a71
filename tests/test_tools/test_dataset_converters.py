# Copyright (c) The nl_plugins authors. All rights reserved.
"""The converters of real data: exact content, and clear refusals."""

import importlib
import io
import pickle
import pickletools
import tarfile

import cv2
import numpy as np
import pytest


@pytest.fixture
def converters(root, monkeypatch):
    """Import a module of tools/dataset_converters by name."""
    monkeypatch.syspath_prepend(str(root / 'tools' / 'dataset_converters'))
    return importlib.import_module


def raw_arrays(num_train=12, num_test=4):
    rng = np.random.default_rng(0)
    return dict(
        train_data=rng.integers(0, 256, (num_train, 3072), dtype=np.uint8),
        train_labels=np.arange(num_train, dtype=np.uint8) % 10,
        test_data=rng.integers(0, 256, (num_test, 3072), dtype=np.uint8),
        test_labels=np.arange(num_test, dtype=np.uint8) % 10,
    )


def jpeg_arrays(images):
    files = []
    for image in images:
        ok, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        assert ok
        files.append(data.reshape(-1))
    offsets = np.cumsum([0] + [len(file) for file in files])
    return np.concatenate(files), offsets.astype(np.int64)


def load(path, encoding='latin1'):
    with open(path, 'rb') as file:
        return pickle.load(file, encoding=encoding)


def read_folder(folder, pattern):
    batches = [load(path) for path in sorted(folder.glob(pattern))]
    labels = [label for batch in batches for label in batch['labels']]
    return np.concatenate([batch['data'] for batch in batches]), labels


def test_raw_npz_keeps_every_pixel_in_order(converters, tmp_path, capsys):
    arrays = raw_arrays()
    np.savez(tmp_path / 'c.npz', **arrays)
    argv = [str(tmp_path / 'c.npz'), '--out', str(tmp_path / 'o'), '--keep-order']
    assert converters('cifar_npz').main(argv) == 0
    assert '12 training and 4 test images' in capsys.readouterr().out
    folder = tmp_path / 'o' / 'cifar-10-batches-py'
    names = sorted(path.name for path in folder.iterdir())
    assert names == ['batches.meta'] + [f'data_batch_{i}' for i in range(1, 6)] + [
        'test_batch'
    ]
    images, labels = read_folder(folder, 'data_batch_*')
    np.testing.assert_array_equal(images, arrays['train_data'])
    assert labels == arrays['train_labels'].tolist()
    images, labels = read_folder(folder, 'test_batch')
    np.testing.assert_array_equal(images, arrays['test_data'])
    assert load(folder / 'batches.meta')['label_names'][3] == 'cat'


def test_shuffling_keeps_images_with_their_labels(converters, tmp_path):
    arrays = raw_arrays()
    np.savez(tmp_path / 'c.npz', **arrays)
    convert = converters('cifar_npz').convert
    convert(tmp_path / 'c.npz', tmp_path / 'o', seed=1)
    folder = tmp_path / 'o' / 'cifar-10-batches-py'
    images, labels = read_folder(folder, 'data_batch_*')
    assert not np.array_equal(images, arrays['train_data'])
    known = {
        image.tobytes(): label
        for image, label in zip(arrays['train_data'], arrays['train_labels'])
    }
    assert [known[image.tobytes()] for image in images] == labels
    with pytest.raises(ValueError, match='--force'):
        convert(tmp_path / 'c.npz', tmp_path / 'o')
    convert(tmp_path / 'c.npz', tmp_path / 'o', keep_order=True, force=True)
    np.testing.assert_array_equal(
        read_folder(folder, 'data_batch_*')[0], arrays['train_data']
    )


def test_jpeg_npz_decodes_to_rgb_planes(converters, tmp_path):
    images = np.zeros((10, 32, 32, 3), dtype=np.uint8)  # BGR, as OpenCV encodes
    images[..., 2] = np.arange(0, 250, 25)[:, None, None]  # red names the image
    images[:, :16, :, 0] = 200  # blue in the upper half
    data, offsets = jpeg_arrays(images)
    np.savez(
        tmp_path / 'j.npz',
        **{f'{split}_jpeg': data for split in ('train', 'test')},
        **{f'{split}_offsets': offsets for split in ('train', 'test')},
        **{f'{split}_labels': np.arange(10) for split in ('train', 'test')},
    )
    converters('cifar_npz').convert(tmp_path / 'j.npz', tmp_path, keep_order=True)
    decoded, labels = read_folder(tmp_path / 'cifar-10-batches-py', 'data_batch_*')
    planes = decoded.reshape(-1, 3, 32, 32).astype(int)
    assert labels == list(range(10))
    assert abs(planes[:, 0].mean(axis=(1, 2)) - np.arange(0, 250, 25)).max() < 12
    assert (planes[:, 2, :12] > 150).mean() > 0.9
    assert (planes[:, 2, 20:] < 60).mean() > 0.9


@pytest.mark.parametrize('encoding, kind', [('bytes', bytes), ('latin1', str)])
def test_batches_read_as_the_published_ones(converters, tmp_path, encoding, kind):
    arrays = raw_arrays()
    converters('cifar_format').write_cifar10(tmp_path, *arrays.values())
    batch = load(tmp_path / 'cifar-10-batches-py' / 'data_batch_1', encoding)
    assert {type(key) for key in batch} == {kind}
    key = b'data' if kind is bytes else 'data'
    assert batch[key].dtype == np.uint8 and batch[key].shape[1] == 3072
    assert batch[key].flags.writeable
    meta = load(tmp_path / 'cifar-10-batches-py' / 'batches.meta', encoding)
    assert {type(key) for key in meta} == {kind}


def test_batches_need_only_what_both_numpy_versions_have(converters, tmp_path):
    converters('cifar_format').write_cifar10(tmp_path, *raw_arrays().values())
    data = (tmp_path / 'cifar-10-batches-py' / 'data_batch_1').read_bytes()
    opcodes = [(op.name, arg) for op, arg, _ in pickletools.genops(data)]
    names = {arg for name, arg in opcodes if name == 'GLOBAL'}
    assert names == {
        'numpy.core.multiarray _reconstruct',
        'numpy ndarray',
        'numpy dtype',
    }
    assert not any('UNICODE' in name for name, _ in opcodes)


def damaged_npz(kind):
    arrays = raw_arrays()
    if kind == 'no labels':
        del arrays['test_labels']
        return arrays, 'needs test_data and test_labels'
    if kind == 'label 10':
        arrays['train_labels'][3] = 10
        return arrays, 'labels 0..9'
    if kind == 'short labels':
        arrays['train_labels'] = arrays['train_labels'][:-1]
        return arrays, 'do not belong together'
    if kind == 'wrong width':
        arrays['train_data'] = arrays['train_data'][:, :100]
        return arrays, r'\(N, 3072\)'
    data, offsets = jpeg_arrays(np.zeros((5, 32, 32, 3), dtype=np.uint8))
    message = 'truncated'
    if kind == 'short bytes':
        data = data[:-10]
    elif kind == 'no jpeg':
        data, message = data * 0, 'train image 0 is not a 32x32 JPEG'
    else:
        offsets, message = offsets[::-1], 'must rise'
    for split in ('train', 'test'):
        arrays.pop(f'{split}_data')
        arrays[f'{split}_jpeg'], arrays[f'{split}_offsets'] = data, offsets
        arrays[f'{split}_labels'] = np.zeros(5, dtype=np.uint8)
    return arrays, message


@pytest.mark.parametrize(
    'kind',
    [
        'no labels',
        'label 10',
        'short labels',
        'wrong width',
        'short bytes',
        'no jpeg',
        'offsets',
    ],
)
def test_damaged_npz_is_refused_and_nothing_left(converters, tmp_path, kind):
    arrays, message = damaged_npz(kind)
    np.savez(tmp_path / 'c.npz', **arrays)
    with pytest.raises(ValueError, match=message):
        converters('cifar_npz').convert(tmp_path / 'c.npz', tmp_path / 'out')
    assert not list((tmp_path / 'out').glob('*'))


def test_truncated_or_missing_npz(converters, tmp_path, capsys):
    np.savez(tmp_path / 'c.npz', **raw_arrays())
    data = (tmp_path / 'c.npz').read_bytes()
    (tmp_path / 'c.npz').write_bytes(data[: len(data) // 2])
    main = converters('cifar_npz').main
    assert main([str(tmp_path / 'c.npz'), '--out', str(tmp_path / 'o')]) == 1
    assert 'truncated or no .npz file' in capsys.readouterr().err
    assert main([str(tmp_path / 'd.npz'), '--out', str(tmp_path / 'o')]) == 1
    assert 'does not exist' in capsys.readouterr().err


def camvid_files(num=1):
    files = {}
    rng = np.random.default_rng(0)
    for split in ('train', 'val', 'test'):
        for i in range(num):
            image = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            label = rng.integers(0, 12, (6, 8), dtype=np.uint8)
            for kind, suffix, picture in (
                ('images', '.jpg', image),
                ('labels', '.png', label),
            ):
                name = f'camvid/{kind}/{split}/{i}{suffix}'
                files[name] = cv2.imencode(suffix, picture)[1].tobytes()
    return files


def write_tar(path, files, links=()):
    with tarfile.open(path, 'w') as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)


def test_camvid_is_unpacked_byte_for_byte(converters, tmp_path, capsys):
    files = camvid_files(num=2)
    write_tar(tmp_path / 'c.tar', files)
    argv = [str(tmp_path / 'c.tar'), '--out', str(tmp_path / 'camvid')]
    main = converters('camvid').main
    assert main(argv) == 0
    assert '2 train, 2 val, 2 test pairs' in capsys.readouterr().out
    for name, data in files.items():
        assert (tmp_path / name).read_bytes() == data
    assert main(argv) == 1
    assert '--force' in capsys.readouterr().err
    assert main(argv + ['--force']) == 0
    (tmp_path / 'camvid' / 'mine.txt').touch()
    assert main(argv + ['--force']) == 1
    assert (tmp_path / 'camvid' / 'mine.txt').exists()


@pytest.mark.parametrize(
    'name',
    [
        '/etc/passwd',
        '../evil.jpg',
        'camvid/images/../../evil.jpg',
        'camvid/images/train/..',
        'camvid/images/train/a.sh',
        'camvid/images/other/a.jpg',
        'camvid/images/train/b/a.jpg',
        'camvid/images/train/..\\a.jpg',
    ],
)
def test_foreign_archive_members_never_reach_the_disk(converters, tmp_path, name):
    write_tar(tmp_path / 'c.tar', {**camvid_files(), name: b'evil'})
    with pytest.raises(ValueError, match='unexpected member'):
        converters('camvid').convert(tmp_path / 'c.tar', tmp_path / 'camvid')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['c.tar']


def test_links_in_the_archive_are_refused(converters, tmp_path):
    link = ('camvid/images/train/z.jpg', '/etc/passwd')
    write_tar(tmp_path / 'c.tar', camvid_files(), [link])
    with pytest.raises(ValueError, match='link'):
        converters('camvid').convert(tmp_path / 'c.tar', tmp_path / 'camvid')


@pytest.mark.parametrize(
    'change, message',
    [
        ('missing label', 'no partner'),
        ('other size', 'the label map'),
        ('value 12', 'lies above 11'),
        ('no picture', 'cannot be read'),
        ('no split', 'no pictures'),
    ],
)
def test_pairs_that_do_not_fit_are_refused(converters, tmp_path, change, message):
    files = camvid_files()
    label = 'camvid/labels/val/0.png'

    def png(value, shape):
        return cv2.imencode('.png', np.full(shape, value, np.uint8))[1].tobytes()

    if change == 'missing label':
        del files[label]
    elif change == 'other size':
        files[label] = png(1, (5, 8))
    elif change == 'value 12':
        files[label] = png(12, (6, 8))
    elif change == 'no picture':
        files['camvid/images/val/0.jpg'] = b'nothing'
    else:
        files = {name: data for name, data in files.items() if '/val/' not in name}
    write_tar(tmp_path / 'c.tar', files)
    with pytest.raises(ValueError, match=message):
        converters('camvid').convert(tmp_path / 'c.tar', tmp_path / 'camvid')
    assert not (tmp_path / 'camvid').exists()


def test_truncated_or_missing_archive(converters, tmp_path, capsys):
    write_tar(tmp_path / 'c.tar', camvid_files())
    data = (tmp_path / 'c.tar').read_bytes()
    (tmp_path / 'c.tar').write_bytes(data[:700])
    main = converters('camvid').main
    assert main([str(tmp_path / 'c.tar'), '--out', str(tmp_path / 'o')]) == 1
    assert 'truncated or no tar archive' in capsys.readouterr().err
    assert main([str(tmp_path / 'd.tar'), '--out', str(tmp_path / 'o')]) == 1
    assert 'does not exist' in capsys.readouterr().err


def test_published_data_converts(converters, shared, tmp_path):
    source = shared / 'data' / 'cifar10_subset.npz'
    archive = shared / 'data' / 'camvid.tar'
    for path in (source, archive):
        if not path.is_file():
            pytest.skip(f'needs {path}')
    convert = converters('cifar_npz').convert
    assert convert(source, tmp_path, keep_order=True) == (5085, 1017)
    images, _ = read_folder(tmp_path / 'cifar-10-batches-py', 'test_batch')
    with np.load(source) as file:
        np.testing.assert_array_equal(images, file['test_data'])
    counts = converters('camvid').convert(archive, tmp_path / 'camvid')
    assert counts == dict(train=367, val=101, test=233)


def test_scripts_explain_themselves(converters, capsys):
    for name in ('cifar_npz', 'camvid', 'make_mini_data'):
        with pytest.raises(SystemExit) as stop:
            converters(name).main(['--help'])
        assert stop.value.code == 0
        assert '--out' in capsys.readouterr().out
