# Copyright (c) The nl_plugins authors. All rights reserved.
"""A disk that is full in the middle of a file: the file is named, nothing is left.

The system's limit of the size of a file stands for the disk: it stops a write at the
same place, with another number (EFBIG for ENOSPC).
"""

import errno
import importlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

resource = pytest.importorskip('resource')

NOISE = np.random.default_rng(0).integers(0, 255, (16, 96, 128, 3), dtype=np.uint8)
WEIGHTS = dict(weight=torch.ones(200, 200))


@contextmanager
def full(size: int = 4096):
    """No file grows beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def module(root, monkeypatch):
    for folder in ('dataset_converters', 'model_converters', 'analysis_tools'):
        monkeypatch.syspath_prepend(str(root / 'tools' / folder))
    monkeypatch.syspath_prepend(str(root / 'tools' / 'visualization'))
    return importlib.import_module


def video_list(module, path: Path) -> None:
    source = path.with_name('source.txt')
    if not source.exists():
        source.write_text(''.join(f'video{i} 8 0\n' for i in range(1000)))
    arguments = [str(source), str(path), '--format', 'space']
    tool = module('video_lists')
    tool.convert(tool.parse_args(arguments))


WRITERS = {
    'checkpoint.pth': lambda module, path: module('conversion').save_checkpoint(
        path, WEIGHTS
    ),
    'config.py': lambda module, path: module('conversion').write_whole(
        path, 'x' * 9999
    ),
    'dump.pkl': lambda module, path: module('fuse_scores').write_dump(
        path, np.ones((500, 10)), np.zeros(500)
    ),
    'attention.png': lambda module, path: module('vis_attention').write(path, NOISE[0]),
    'attention.mp4': lambda module, path: module('vis_attention').write_video(
        path, list(NOISE), 4
    ),
    'batch': lambda module, path: module('cifar_format').dump_python2(
        dict(data=NOISE), path
    ),
    'list.txt': video_list,
}


@pytest.mark.parametrize('name', WRITERS)
def test_one_file(module, tmp_path, name):
    path = tmp_path / name
    WRITERS[name](module, path)
    whole = path.read_bytes()
    names = {file.name for file in tmp_path.iterdir()}
    assert len(whole) > 4096
    with full(), pytest.raises(OSError) as error:
        WRITERS[name](module, path)
    assert str(path) in str(error.value)
    assert name.endswith('mp4') or error.value.errno == errno.EFBIG
    assert path.read_bytes() == whole
    assert {file.name for file in tmp_path.iterdir()} == names


SETS = ('cifar10', 'cityscapes', 'kinetics400', 'sthv1', 'coco')


@pytest.mark.parametrize('name', SETS)
def test_mini_data(module, tmp_path, name, capsys):
    tool = module('make_mini_data')
    arguments = ['--out', str(tmp_path), '--only', name, f'--{name}', '9', '1']
    assert tool.main(arguments) == 0
    before = {path: path.stat().st_size for path in tmp_path.rglob('*')}
    with full(1024):
        assert tool.main([*arguments, '--seed', '1']) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f'error: [Errno {errno.EFBIG}] ')
    assert f'{tmp_path}/.{name}.' in said and 'encoder' not in said
    assert {path: path.stat().st_size for path in tmp_path.rglob('*')} == before


@pytest.mark.parametrize('fmt, suffix', [('torch_export', 'pt2')])
def test_export(root, tmp_path, monkeypatch, capsys, fmt, suffix):
    monkeypatch.syspath_prepend(str(root / 'tools' / 'deployment'))
    export = importlib.import_module('export')
    out = tmp_path / f'block.{suffix}'
    arguments = ['--block', 'NLBlock', '--shape', '1', '64', '4', '4', '--format', fmt]
    with full(), pytest.raises(SystemExit, match=rf'\[Errno {errno.EFBIG}\] .*{out}'):
        export.main([*arguments, '--out', str(out)])
    assert not [path for path in tmp_path.iterdir()]


@pytest.mark.parametrize('name', ['idea.jpg', 'readme.jpg', 'page.html'])
def test_pictures_of_the_docs(module, tmp_path, name):
    pytest.importorskip('mmseg')
    tool = {'idea': 'idea_picture', 'readme': 'readme_picture', 'page': 'attention_app'}
    main, path = module(tool[name.partition('.')[0]]).main, tmp_path / name
    arguments = ['--demo'] if name == 'page.html' else []
    with full(), pytest.raises(OSError, match=rf'\[Errno {errno.EFBIG}\] .*{path}'):
        main([*arguments, '--out', str(path)])
    assert not list(tmp_path.iterdir())
