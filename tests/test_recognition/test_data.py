# Copyright (c) The nl_plugins authors. All rights reserved.
"""Broken videos are named, never replaced; list files of other repositories."""

import importlib.util
import json
import os
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('mmaction')

from mmaction.registry import DATASETS, TRANSFORMS  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

import nl_plugins  # noqa: E402, F401

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def mmaction_scope():
    with DefaultScope.overwrite_default_scope('mmaction'):
        yield


@pytest.fixture
def rawframes(tmp_path):
    """Six videos of four frames; 1 lacks a frame, 3 has a broken one, 5 is short."""
    lines = []
    for video in range(6):
        folder = tmp_path / 'rawframes' / f'v{video}'
        folder.mkdir(parents=True)
        frames = 2 if video == 5 else 4
        for t in range(1, frames + 1):
            grey = np.full((8, 10, 3), 40 * video, dtype=np.uint8)
            cv2.imwrite(str(folder / f'img_{t:05}.jpg'), grey)
        lines.append(f'v{video} {frames} {video}')
    (tmp_path / 'rawframes/v1/img_00004.jpg').unlink()
    (tmp_path / 'rawframes/v3/img_00002.jpg').write_bytes(b'no picture')
    (tmp_path / 'list.txt').write_text('\n'.join(lines) + '\n')
    return tmp_path


def frames_set(root, test_mode=False, **options):
    return DATASETS.build(
        dict(
            type='CheckedRawframeDataset',
            ann_file=str(root / 'list.txt'),
            data_prefix=dict(img=str(root / 'rawframes')),
            pipeline=[
                dict(type='SampleFrames', clip_len=4, num_clips=1),
                dict(type='RawFrameDecode'),
                dict(type='FormatShape', input_format='NCTHW'),
                dict(type='PackActionInputs'),
            ],
            test_mode=test_mode,
            **options,
        )
    )


def label(sample):
    return int(sample['data_samples'].gt_label)


def test_good_videos_pass(rawframes):
    dataset = frames_set(rawframes)
    assert label(dataset[0]) == 0
    assert label(dataset[5]) == 5
    assert dataset[0]['inputs'].shape == (1, 3, 4, 8, 10)


@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize(
    ('index', 'reason'),
    [(1, 'no file .*img_00004.jpg'), (3, 'img_00002.jpg is not a readable picture')],
)
def test_error_names_video_and_reason(rawframes, index, reason, test_mode):
    dataset = frames_set(rawframes, test_mode)
    with pytest.raises(RuntimeError, match=rf'v{index} .*{reason}.*on_error') as error:
        dataset[index]
    assert error.value.__cause__ is not None


def test_skip_is_logged_and_counted(rawframes, monkeypatch):
    logged = []
    monkeypatch.setattr(
        'nl_plugins.recognition.datasets.print_log',
        lambda message, **kwargs: logged.append(message),
    )
    dataset = frames_set(rawframes, on_error='skip')
    labels = {label(dataset[index]) for index in (1, 3, 1, 3)}
    assert len(logged) == 2
    assert 'number 1' in logged[0] and 'number 2' in logged[1]
    assert labels <= {0, 2, 4, 5}
    assert {Path(path).name for path in dataset.skipped} == {'v1', 'v3'}
    assert 'img_00002.jpg is not a readable picture' in ' '.join(
        dataset.skipped.values()
    )


def test_skip_in_a_test_needs_a_check(rawframes):
    dataset = frames_set(rawframes, True, on_error='skip')
    with pytest.raises(RuntimeError, match="check='decode'"):
        dataset[1]


@pytest.mark.parametrize(
    ('options', 'kept'),
    [
        (dict(check='list', min_frames=3), [0, 1, 2, 3, 4]),
        (dict(check='files'), [0, 2, 3, 4, 5]),
        (dict(check='decode', min_frames=4), [0, 2, 3, 4]),  # v3's ends are good
    ],
)
def test_checks_when_the_list_is_read(rawframes, options, kept):
    dataset = frames_set(rawframes, True, on_error='skip', **options)
    assert [dataset.get_data_info(i)['label'] for i in range(len(dataset))] == kept
    assert len(dataset.skipped) == 6 - len(kept)
    with pytest.raises(RuntimeError, match='cannot be used'):
        frames_set(rawframes, True, **options)


def test_too_many_skipped(rawframes):
    with pytest.raises(RuntimeError, match='max_skipped=1'):
        frames_set(
            rawframes, on_error='skip', check='files', min_frames=3, max_skipped=1
        )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(on_error='ignore'), r"on_error must be one of .*'ignore'"),
        (dict(check='all'), r"check must be one of .*'all'"),
    ],
)
def test_wrong_options(rawframes, options, message):
    with pytest.raises(ValueError, match=message):
        frames_set(rawframes, **options)


@pytest.fixture
def videos(tmp_path):
    """A good video of 12 frames, a broken file and a missing one."""
    writer = cv2.VideoWriter(
        str(tmp_path / 'good.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 12, (32, 24)
    )
    for t in range(12):
        writer.write(np.full((24, 32, 3), 20 * t, dtype=np.uint8))
    writer.release()
    (tmp_path / 'broken.avi').write_bytes(b'no video at all')
    (tmp_path / 'list.txt').write_text('good.avi 0\nbroken.avi 1\nmissing.avi 2\n')
    return tmp_path


def video_set(root, test_mode=True, min_wanted=1, **options):
    return DATASETS.build(
        dict(
            type='CheckedVideoDataset',
            ann_file=str(root / 'list.txt'),
            data_prefix=dict(video=str(root)),
            pipeline=[
                dict(type='DecordInit'),
                dict(type='RequireFrames', min_frames=min_wanted),
                dict(type='SampleFrames', clip_len=1, num_clips=8, test_mode=True),
                dict(type='DecordDecode'),
                dict(type='FormatShape', input_format='NCHW'),
                dict(type='PackActionInputs'),
            ],
            test_mode=test_mode,
            **options,
        )
    )


def test_videos(videos):
    dataset = video_set(videos)
    assert dataset[0]['inputs'].shape == (8, 3, 24, 32)
    with pytest.raises(RuntimeError, match='broken.avi .* cannot be used'):
        dataset[1]
    with pytest.raises(RuntimeError, match='missing.avi .*no such file'):
        dataset[2]
    with pytest.raises(RuntimeError, match='12 frames, min_frames=13'):
        video_set(videos, min_wanted=13)[0]


def test_broken_videos_can_be_left_out(videos):
    dataset = video_set(videos, on_error='skip', check='decode')
    assert len(dataset) == 1
    assert len(dataset.skipped) == 2
    dataset = video_set(videos, test_mode=False, on_error='skip')
    assert label(dataset[1]) == 0
    assert {Path(path).name for path in dataset.skipped} >= {'broken.avi'}


FORMATS = ['MJPG.avi', 'XVID.avi', 'VP80.webm', 'XVID.mkv', 'mp4v.mp4', 'mp4v.mov']


@pytest.fixture(scope='module')
def whole_videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    for name in FORMATS:
        codec = cv2.VideoWriter_fourcc(*name[:4])
        writer = cv2.VideoWriter(str(folder / name), codec, 12, (32, 24))
        for t in range(12):
            writer.write(np.roll(noise, t, 1))
        writer.release()
    return folder


@pytest.mark.parametrize('share', [0.0, 0.02, 0.5, 0.97])
@pytest.mark.parametrize('name', FORMATS)
def test_truncated_videos_are_named(whole_videos, tmp_path, name, share):
    whole = (whole_videos / name).read_bytes()
    if not whole:
        pytest.skip(f'this OpenCV writes no {name}')
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    shutil.copy(whole_videos / name, tmp_path / f'good_{name}')
    (tmp_path / 'list.txt').write_text(f'{name} 0\ngood_{name} 1\n')
    dataset = video_set(tmp_path)
    assert dataset[1]['inputs'].shape[0] == 8
    with pytest.raises(RuntimeError, match=rf'/{name} of .* cannot be used'):
        dataset[0]
    for check in ('files', 'decode'):
        if check == 'files' and name[-3:] in ('mp4', 'mov') and share == 0.97:
            continue  # what was cut off is the index, which only the decoder misses
        with pytest.raises(RuntimeError, match=rf'/{name} of .* cannot be used'):
            video_set(tmp_path, check=check)
        assert len(video_set(tmp_path, check=check, on_error='skip')) == 1
    # mmaction's own data set: an error with the name, or fewer frames, but no crash.
    init = TRANSFORMS.build(dict(type='DecordInit'))
    try:
        assert init(dict(filename=str(tmp_path / name)))['total_frames'] <= 12
    except OSError as error:
        assert f'/{name} cannot be read by DecordInit' in str(error)


def test_length_of_videos_is_known_after_decoding(videos):
    with pytest.raises(ValueError, match="min_frames=3 needs check='decode'"):
        video_set(videos, min_frames=3)
    options = dict(on_error='skip', check='decode')
    assert len(video_set(videos, min_frames=12, **options)) == 1
    with pytest.raises(RuntimeError, match='no video is left'):
        video_set(videos, min_frames=13, **options)


CONTAINERS = [('avi', 'MJPG'), ('avi', 'XVID'), ('mp4', 'mp4v'), ('webm', 'VP80')]


@pytest.fixture(params=CONTAINERS, ids=lambda pair: '-'.join(pair))
def truncated(videos, request):
    """A list of one whole video and halves and tenths of it."""
    suffix, codec = request.param
    whole = videos / f'whole.{suffix}'
    codec = cv2.VideoWriter_fourcc(*codec)
    writer = cv2.VideoWriter(str(whole), codec, 12, (96, 64))
    noise = np.random.default_rng(0).integers(0, 255, (24, 64, 96, 3), dtype=np.uint8)
    for frame in noise:
        writer.write(frame)
    writer.release()
    content = whole.read_bytes()
    names = [whole.name]
    for percent in (1, 10, 50, 90, 99):
        path = videos / f'{percent}.{suffix}'
        path.write_bytes(content[: len(content) * percent // 100])
        names.append(path.name)
    (videos / 'list.txt').write_text(''.join(f'{name} 0\n' for name in names))
    return videos


@pytest.mark.parametrize('check', ['list', 'files', 'decode'])
def test_truncated_videos(truncated, check):
    if check == 'list':
        dataset = video_set(truncated)
        assert dataset[0]['inputs'].shape[0] == 8
        for index in range(1, 6):
            name = Path(dataset.get_data_info(index)['filename']).name
            with pytest.raises(RuntimeError, match=f'{name} .* bytes are missing'):
                dataset[index]
        return
    with pytest.raises(RuntimeError, match='1.* bytes are missing.*on_error='):
        video_set(truncated, check=check)
    dataset = video_set(truncated, check=check, on_error='skip')
    assert len(dataset) == 1 and len(dataset.skipped) == 5


def test_decoders_do_not_end_the_process_and_name_the_file(truncated):
    """With the codebase's own data set and transforms, as in its inferencers."""
    for path in truncated.iterdir():
        if path.stem not in ('1', '10', '50', '90', '99'):
            continue
        info = dict(filename=str(path), start_index=0, modality='RGB')
        try:
            with pytest.warns(UserWarning, match=f'{path} is truncated'):
                info = TRANSFORMS.build(dict(type='DecordInit')).transform(info)
            info['frame_inds'] = np.arange(info['total_frames'])
            info = TRANSFORMS.build(dict(type='DecordDecode')).transform(info)
        except OSError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize('reader', ['Decord', 'OpenCV', 'PyAV'])
def test_no_video_at_all(videos, reader):
    if reader == 'PyAV':
        pytest.importorskip('av')
    info = dict(filename=str(videos / 'broken.avi'), start_index=0, modality='RGB')
    info['frame_inds'] = np.array([0])
    steps = [TRANSFORMS.build(dict(type=reader + end)) for end in ('Init', 'Decode')]
    with pytest.raises(Exception, match='broken.avi'):
        for step in steps:
            info = step.transform(info)


def test_a_decoder_that_ends_the_process(videos, monkeypatch):
    (videos / 'list.txt').write_text('good.avi 0\nbroken.avi 1\ngood.avi 1\n')

    def transform(self, results):
        if 'broken' in results['filename']:
            os.kill(os.getpid(), signal.SIGSEGV)
        return opened(self, results)

    kind = TRANSFORMS.get('DecordInit')
    opened = kind.transform
    monkeypatch.setattr(kind, 'transform', transform)
    dataset = video_set(videos, check='decode', on_error='skip')
    assert len(dataset) == 2
    assert [*dataset.skipped.values()] == ['its decoder ends the process (SIGSEGV)']


def test_decode_uses_the_reader_of_the_pipeline(videos, monkeypatch):
    (videos / 'list.txt').write_text('good.avi 0\n')
    used = []
    for end in ('Init', 'Decode'):
        kind = TRANSFORMS.get(f'OpenCV{end}')
        monkeypatch.setattr(
            kind,
            'transform',
            lambda self, results, call=kind.transform, end=end: (
                used.append(end) or call(self, results)
            ),
        )
    monkeypatch.setattr('nl_plugins.recognition.datasets.in_a_child', map)
    DATASETS.build(
        dict(
            type='CheckedVideoDataset',
            ann_file=str(videos / 'list.txt'),
            data_prefix=dict(video=str(videos)),
            pipeline=[dict(type='OpenCVInit'), dict(type='OpenCVDecode')],
            check='decode',
        )
    )
    assert used == ['Init', 'Decode']


@pytest.mark.parametrize('cut', [0.3, 0.9])
def test_truncated_frames(rawframes, cut):
    frame = rawframes / 'rawframes/v0/img_00001.jpg'
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    content = cv2.imencode('.jpg', noise)[1].tobytes()
    frame.write_bytes(content[: int(len(content) * cut)])
    dataset = frames_set(rawframes, check='decode', on_error='skip')
    assert f'{frame} is not a readable picture' in dataset.skipped.values()


HOSTILE_LISTS = [
    (b'', "line 1: expected 'file label'"),
    (b'good.avi 0\n\ngood.avi 0\n', "line 2: expected 'file label', but got ''"),
    ('good.avi 0\n'.encode('utf-16'), 'is not UTF-8'),
    ('good.avi 0\n'.encode('utf-16-le'), 'NUL'),
    ('gr\u00fcn.avi 0\n'.encode('latin1'), 'is not UTF-8'),
    (b'good.avi 0\n\0\0\0', 'NUL'),
    (b'good.avi zero\n', "line 1: expected 'file label'"),
    (b'good.avi 1.5\n', "line 1: expected 'file label'"),
    (b'good.avi 0 1\n', "line 1: expected 'file label'"),
    (b'../good.avi 0\n', 'leaves the folder .*allow_outside=True'),
    (b'/etc/good.avi 0\n', 'leaves the folder'),
    (b's3://bucket/good.avi 0\n', 'leaves the folder'),
]


@pytest.mark.parametrize('content, message', HOSTILE_LISTS)
def test_hostile_lists(videos, content, message):
    (videos / 'list.txt').write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        video_set(videos)
    assert str(videos / 'list.txt') in str(error.value)


def test_lists_that_are_taken(videos):
    (videos / 'list.txt').write_bytes(b'\xef\xbb\xbfgood.avi 0\r\n')
    assert video_set(videos)[0]['inputs'].shape[0] == 8
    (videos / 'list.txt').write_text(f'../{videos.name}/good.avi 0\n')
    dataset = video_set(videos, allow_outside=True)
    assert dataset[0]['inputs'].shape[0] == 8


@pytest.mark.parametrize('row', ['v0 3', 'v0', 'v0 3 0 1', 'v0 three 0', 'v0 3 0.5'])
def test_rows_of_frames(rawframes, row):
    (rawframes / 'list.txt').write_text(row + '\n')
    if row == 'v0 3':  # a test server's list has no labels
        frames_set(rawframes)
        return
    with pytest.raises(ValueError, match="expected 'folder frames label'"):
        frames_set(rawframes)


@pytest.fixture(scope='module')
def lists():
    path = ROOT / 'tools/dataset_converters/video_lists.py'
    spec = importlib.util.spec_from_file_location('video_lists', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def converted(lists, tmp_path, *args):
    output = tmp_path / 'out' / 'list.txt'
    lists.main([str(args[0]), str(output), *map(str, args[1:])])
    return output.read_text().splitlines()


@pytest.mark.parametrize('name, separator', [('space', ' '), ('comma', ',')])
def test_rows(lists, tmp_path, name, separator):
    source = tmp_path / 'in.txt'
    rows = [('a/b', '30', '2'), ('c', '4', '0')]
    source.write_text('\n'.join(separator.join(row) for row in rows) + '\n\n')
    found = converted(lists, tmp_path, source, '--format', name)
    assert found == [' '.join(row) for row in rows]


def test_malformed_row(lists, tmp_path):
    source = tmp_path / 'in.txt'
    source.write_text('a 3 1\nb 3\n')
    with pytest.raises(SystemExit, match='line 2: expected "folder frames label"'):
        converted(lists, tmp_path, source, '--format', 'space')
    assert not (tmp_path / 'out').exists()


def test_white_space_in_a_name(lists, tmp_path):
    source = tmp_path / 'in.csv'
    source.write_text('riding a bike/x,3,1\n')
    with pytest.raises(SystemExit, match='contains white space'):
        converted(lists, tmp_path, source, '--format', 'comma')


def test_class_order(lists, tmp_path):
    """Alphabetical labels, as TSM counts, to the official order."""
    for name, content in (
        ('in.txt', 'a 3 0\nb 3 1\nc 3 2\n'),
        ('old.txt', 'Closing\nMoving up\nPushing\n'),
        ('new.txt', 'Pushing\nClosing\nMoving up\n'),
    ):
        (tmp_path / name).write_text(content)
    args = [tmp_path / 'in.txt', '--format', 'space', '--labels', tmp_path / 'old.txt']
    found = converted(lists, tmp_path, *args, '--relabel', tmp_path / 'new.txt')
    assert found == ['a 3 1', 'b 3 2', 'c 3 0']
    (tmp_path / 'new.txt').write_text('Pulling\nClosing\nMoving up\n')
    with pytest.raises(SystemExit, match='Pulling'):
        converted(lists, tmp_path, *args, '--relabel', tmp_path / 'new.txt')


@pytest.fixture
def hara(tmp_path):
    database = {
        'v2': dict(subset='training', annotations=dict(label='run')),
        'v1': dict(subset='training', annotations=dict(label='jump')),
        'v3': dict(subset='validation', annotations=dict(label='jump')),
    }
    source = tmp_path / 'in.json'
    source.write_text(json.dumps(dict(labels=['', 'run', 'jump'], database=database)))
    for name, count in (('jump/v1', '7'), ('run/v2', None)):
        folder = tmp_path / 'frames' / name
        folder.mkdir(parents=True)
        if count:
            (folder / 'n_frames').write_text(count)
        for t in range(3):
            (folder / f'image_{t:05}.jpg').touch()
    return source


def test_json_skips_empty_label_names(lists, tmp_path, hara):
    args = [hara, '--format', 'json', '--frames-root', tmp_path / 'frames']
    with pytest.warns(UserWarning, match='1 of 3 label names are empty'):
        found = converted(lists, tmp_path, *args)
    assert found == ['jump/v1 7 1', 'run/v2 3 0']


def test_missing_frames_are_an_error_or_counted(lists, tmp_path, hara, capsys):
    shutil.rmtree(tmp_path / 'frames/run/v2')
    args = [hara, '--format', 'json', '--frames-root', tmp_path / 'frames']
    with pytest.warns(UserWarning), pytest.raises(SystemExit, match='run/v2'):
        converted(lists, tmp_path, *args)
    with pytest.warns(UserWarning):
        found = converted(lists, tmp_path, *args, '--missing', 'skip')
    assert found == ['jump/v1 7 1']
    output = capsys.readouterr()
    assert 'left out 1' in output.out
    assert 'run/v2 has no frames' in output.err


def test_json_of_flow_has_no_label_folders(lists, tmp_path, hara):
    args = [hara, '--format', 'json', '--no-label-folders', '--videos', '.avi']
    with pytest.warns(UserWarning):
        assert converted(lists, tmp_path, *args) == ['v1.avi 1', 'v2.avi 0']


def test_unknown_label(lists, tmp_path, hara):
    content = json.loads(hara.read_text())
    content['database']['v1']['annotations']['label'] = 'fly'
    hara.write_text(json.dumps(content))
    with pytest.warns(UserWarning), pytest.raises(SystemExit, match="'fly'"):
        converted(lists, tmp_path, hara, '--format', 'json', '--videos', '.avi')


def test_ucf101(lists, tmp_path):
    (tmp_path / 'classInd.txt').write_text('1 Archery\n2 Billiards\n')
    (tmp_path / 'train.txt').write_text('Billiards/v_a.avi 2\nArchery/v_b.avi 1\n')
    (tmp_path / 'test.txt').write_text('Billiards/v_c.avi\n')
    args = ['--format', 'ucf101', '--labels', tmp_path / 'classInd.txt']
    args += ['--videos', '.avi']
    found = converted(lists, tmp_path, tmp_path / 'train.txt', *args)
    assert found == ['Billiards/v_a.avi 1', 'Archery/v_b.avi 0']
    found = converted(lists, tmp_path, tmp_path / 'test.txt', *args)
    assert found == ['Billiards/v_c.avi 1']


@pytest.mark.parametrize(
    ('subset', 'wanted'),
    [
        ('training', ['jump/a.avi 0', 'run/c.avi 1']),
        ('validation', ['jump/b.avi 0', 'run/d.avi 1']),
    ],
)
def test_hmdb51(lists, tmp_path, subset, wanted):
    (tmp_path / 'run_test_split1.txt').write_text('c.avi 1 \nd.avi 2 \n')
    (tmp_path / 'jump_test_split1.txt').write_text('a.avi 1 \nb.avi 2 \ne.avi 0 \n')
    (tmp_path / 'jump_test_split2.txt').write_text('z.avi 1 \n')
    args = ['--format', 'hmdb51', '--subset', subset, '--videos', '.avi']
    assert converted(lists, tmp_path, tmp_path, *args) == wanted
