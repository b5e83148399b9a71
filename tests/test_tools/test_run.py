# Copyright (c) The nl_plugins authors. All rights reserved.
"""``python -m nl_plugins.run`` on every row of docs/en/scripts.md."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import forks
import pytest

from nl_plugins import run
from nl_plugins.codebases import CODEBASES

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / 'tests' / 'test_tools' / 'tiny'
TRAIN, TEST = ROOT / 'tools' / 'train.py', ROOT / 'tools' / 'test.py'
# Our script's option that writes predictions, and what it writes.
DUMPS = dict(
    mmpretrain=('--out', 'predictions.pkl'),
    mmseg=('--out', 'predictions'),
    mmaction=('--dump', 'predictions.pkl'),
    mmdet=('--out', 'predictions.pkl'),
)
LAST = dict(mmseg='iter_4.pth')
#: Configs as users have them, for what shows data.
MINI = dict(
    mmpretrain='classification/snl/preresnet20-snl1_1xb32-8e_mini-cifar10.py',
    mmseg='segmentation/snl/snl_r18-d8_1xb4-400_mini-cityscapes-128x256.py',
    mmaction='recognition/rnl/tsm_r18-rnl_1xb8-1x1x8-8e_mini-sthv1-rgb.py',
    mmdet='detection/snl/retinanet_r18-snl1_fpn_1xb8-12e_mini-coco.py',
)
IMPORTED = ('seaborn', 'moviepy', 'pytorch_grad_cam', 'sklearn', 'psutil')


def rows(package: str) -> list[list[str]]:
    """Script, arguments and verdict of each row of the codebase's table."""
    page = (ROOT / 'docs/en/scripts.md').read_text(encoding='utf-8')
    section = page.split(f'\n## {package}\n')[1].split('\n## ')[0]
    found = re.findall(r'^\| `(.+?)` \| `(.+?)` \| (.+?) \|$', section, re.MULTILINE)
    return [list(row) for row in found]


@pytest.fixture(scope='module', params=list(CODEBASES))
def trained(request, tmp_path_factory):
    """A folder with data, a run of the tiny config and its predictions."""
    package = request.param
    pytest.importorskip(package)
    missing = [name for name in IMPORTED if find_spec(name) is None]
    if missing:
        pytest.skip(f'the scripts import {missing}: pip install -e ".[vis]"')
    folder = tmp_path_factory.mktemp(package)
    data = [
        *('--out', 'data', '--only', 'cifar10', 'cityscapes', 'sthv1', 'coco'),
        *('--cifar10', 20, 8, '--cityscapes', 5, 2, '--sthv1', 8, 4, '--coco', 8, 4),
    ]
    config = TINY / f'{CODEBASES[package].extra}.py'
    checkpoint = f'work/{LAST.get(package, "epoch_2.pth")}'
    commands = [
        [ROOT / 'tools/dataset_converters/make_mini_data.py', *data],
        [TRAIN, config, '--work-dir', 'work'],
        [TEST, config, checkpoint, '--work-dir', 'work/test', *DUMPS[package]],
    ]
    execute(folder, package, commands)
    (folder / 'data' / 'mini').symlink_to('.')
    (log,) = folder.glob('work/2*/vis_data/scalars.json')
    import cv2
    import numpy as np

    cv2.imwrite(str(folder / 'image.png'), np.full((32, 64, 3), 90, np.uint8))
    words = dict(
        CONFIG=config,
        CHECKPOINT=checkpoint,
        LOG=log,
        PREDICTIONS=DUMPS[package][1],
        IMAGE='image.png',
        FRAMES=min((folder / 'data' / 'sthv1' / 'rawframes').iterdir()),
    )
    return package, folder, words


def execute(folder: Path, package: str, commands: list) -> None:
    """Run commands in ``folder``; all have to end well."""
    records = folder / 'records'
    records.mkdir(exist_ok=True)
    environment = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join([str(ROOT), str(TINY)]),
        MPLBACKEND='Agg',
    )
    preload = ['nl_plugins', f'{package}.models']
    results = forks.run(commands, records, preload, cwd=folder, env=environment)
    for command, (status, out, err) in zip(commands, results):
        assert status == 0, f'{command}: {out[-1000:]} {err[-3000:]}'


def test_scripts_of_the_table(trained):
    package, folder, names = trained
    commands = []
    for script, arguments, verdict in rows(package):
        if verdict != 'yes':
            continue
        words = {**names}
        if 'browse_dataset' in script:
            words['CONFIG'] = ROOT / 'configs' / MINI[package]
        given = [words.get(word, word) for word in arguments.split()]
        commands.append(['-m', 'nl_plugins.run', package, script, *given])
    assert len(commands) > 5
    execute(folder, package, commands)
    for command in commands:
        for option, name in zip(command, command[1:]):
            # What a row says that it writes.
            if option in ('--out', '--out-file', '--save-path', '--out-filename'):
                assert (folder / name).exists(), command
    if (folder / 'browse').exists():
        assert [path for path in (folder / 'browse').rglob('*') if path.is_file()]


@pytest.mark.parametrize('package', list(CODEBASES))
def test_every_row_names_a_script(package):
    pytest.importorskip(package)
    assert rows(package)
    for script, _, verdict in rows(package):
        assert run.find_script(package, script).is_file()
        assert re.match(r'yes$|no, |on |where |with ', verdict)


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A made-up codebase with scripts."""
    tools = tmp_path / 'madeup' / '.mim' / 'tools'
    main = "if __name__ == '__main__':\n    "
    files = {
        'show.py': main + 'import sys; print(sys.argv[1:])',
        'deep/show.py': main + 'pass',
        'a/twice.py': main + 'pass',
        'b/twice.py': main + 'import no_such_package.part',
        'a/helper.py': '',
    }
    for name, text in files.items():
        (tools / name).parent.mkdir(parents=True, exist_ok=True)
        (tools / name).write_text(text)
    monkeypatch.setattr(run, 'folder_of', lambda package: tmp_path / package)
    monkeypatch.setitem(CODEBASES, 'madeup', None)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    return tools


def call(monkeypatch, *words) -> str | None:
    monkeypatch.setattr(sys, 'argv', ['nl_plugins.run', *words])
    try:
        run.main()
    except SystemExit as stop:
        return stop.code
    return None


def test_a_script_gets_its_arguments(scripts, monkeypatch, capsys):
    assert call(monkeypatch, 'madeup', 'show', '--help', 'x') is None
    assert capsys.readouterr().out == "['--help', 'x']\n"
    assert call(monkeypatch, 'madeup', 'deep/show.py') is None


def test_scripts_are_listed(scripts, monkeypatch, capsys):
    assert call(monkeypatch, 'madeup') is None
    listed = capsys.readouterr().out.split()
    assert listed == ['a/twice', 'b/twice', 'deep/show', 'show']
    assert call(monkeypatch) is None
    assert capsys.readouterr().out.startswith('usage: python -m nl_plugins.run')


def test_what_cannot_be_started_is_said_in_a_sentence(scripts, monkeypatch):
    assert "no script 'shwo' (did you mean 'show'?)" in call(
        monkeypatch, 'madeup', 'shwo'
    )
    assert "use one of ['a/twice', 'b/twice']" in call(monkeypatch, 'madeup', 'twice')
    assert call(monkeypatch, 'mmsge', 'x').startswith(
        "nl_plugins.run: unknown codebase 'mmsge' (did you mean 'mmseg'?)"
    )
    assert re.match(
        'twice.py needs no_such_package, which is not installed: .*pip install',
        call(monkeypatch, 'madeup', 'b/twice'),
    )
    monkeypatch.setattr(run, 'folder_of', lambda package: None)
    assert 'mmseg is not installed: pip install' in call(monkeypatch, 'mmseg', 'x')


def test_the_module_is_a_command(root):
    pytest.importorskip('mmseg')
    result = subprocess.run(
        [sys.executable, '-m', 'nl_plugins.run', 'mmseg'],
        cwd=root,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert 'analysis_tools/analyze_logs' in result.stdout.split()
