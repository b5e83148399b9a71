# Copyright (c) The nl_plugins authors. All rights reserved.
"""The commands of MIM with the installed wheel and the codebases' own scripts."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from loaders import in_process

# Not imported here: two processes that import it at once both make its cache folder.
pytestmark = pytest.mark.skipif(
    find_spec('mim') is None, reason='needs openmim: pip install openmim'
)

TINY = Path(__file__).resolve().parent / 'tiny'
# Eight epochs of one batch.
QUICK = ['--cfg-options', 'train_cfg.val_interval=8', *in_process('train', 'val')]


@pytest.fixture
def mim(installed, tmp_path, root):
    """Run a command of MIM beside the installed wheel; its output."""

    def run(*arguments):
        result = subprocess.run(
            [
                sys.executable,
                '-c',
                'from mim.cli import cli; cli()',
                *map(str, arguments),
            ],
            cwd=tmp_path,
            env=dict(
                os.environ,
                # `python`, which MIM starts, is the one of this environment.
                PATH=os.pathsep.join(
                    [str(Path(sys.executable).parent), os.environ['PATH']]
                ),
                PYTHONPATH=os.pathsep.join([str(installed), str(TINY)]),
                COLUMNS='200',
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == 0, result.stdout[-6000:]
        return result.stdout

    return run


def test_list(mim):
    from nl_plugins import __version__

    lines = [line.split()[:2] for line in mim('list').splitlines()]
    # Some setuptools write the underscore as a hyphen.
    assert ['nl_plugins', __version__] in [
        [word.replace('-', '_') for word in line] for line in lines
    ]


@pytest.fixture
def page(root):
    """The commands of the documentation's page, in lists of words."""
    text = (root / 'docs' / 'en' / 'mim.md').read_text(encoding='utf-8')
    (config,) = re.findall(r'^CONFIG=(.+)$', text, flags=re.MULTILINE)
    code = '\n'.join(re.findall(r'```bash\n(.*?)```', text, flags=re.DOTALL))
    code = code.replace('$CONFIG', config)
    lines = [shlex.split(line) for line in code.splitlines()]
    return [words[1:] for words in lines if words[:1] == ['mim']]


def test_what_mim_says_beside_a_checkout(root, tmp_path):
    """The table of the page quotes it, since nothing of ours is asked."""
    from importlib import metadata

    try:
        direct = metadata.distribution('nl_plugins').read_text('direct_url.json')
    except metadata.PackageNotFoundError:
        direct = None
    if '"editable": true' not in (direct or ''):
        pytest.skip('needs nl_plugins installed with pip install -e')
    text = (root / 'docs' / 'en' / 'mim.md').read_text(encoding='utf-8')
    table = re.findall(r'^\| `mim (\w+ nl_plugins) .*?` \| (.+?) \|', text, re.M)
    config = root / 'configs/classification/snl'
    config /= 'preresnet20-snl1_1xb32-8e_mini-cifar10.py'
    arguments = {
        'run': ['list_places', config],
        'train': [config, '--gpus', '0'],
        'test': [config, '-C', 'none.pth'],
        'search': ['--model', 'snl'],
    }
    (tmp_path / 'none.pth').write_bytes(b'')
    assert {words.split()[0] for words, _ in table} == set(arguments)
    for words, quoted in table:
        name = words.split()[0]
        result = subprocess.run(
            [sys.executable, '-c', 'from mim.cli import cli; cli()', *words.split()]
            + [str(word) for word in arguments[name]],
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': ''},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode != 0, f'mim {words} works now: change the page'
        for said in re.findall(r'`(.+?)`', quoted):
            assert said in result.stdout, (words, said, result.stdout[-500:])


def test_search(mim, page):
    by_model, by_config = (words for words in page if words[0] == 'search')
    output = mim(*by_model, '--valid-config')
    assert 'snl_r50-d8_4xb2-40k_cityscapes-512x1024' in output
    assert 'preresnet20-snl1' not in output
    output = mim(*by_config, '--display-width', 300)
    assert f'config id: {by_config[-1]}' in output
    assert 'configs/segmentation/snl/' in output


def test_run(mim, page, root, tmp_path):
    (tmp_path / 'configs').symlink_to(root / 'configs')
    data, flops, export = (words for words in page if words[0] == 'run')
    output = mim(*data, '--cifar10', 8, 4)
    assert '.mim/tools/dataset_converters/make_mini_data.py' in output
    assert (tmp_path / 'data' / 'mini' / 'cifar10').is_dir()
    assert 'decode_head' in mim(*flops)
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    assert 'SNLBlock.onnx' in mim(*export)


@pytest.mark.parametrize('number', range(2))
def test_train_and_test_of_the_page(mim, page, root, tmp_path, number):
    """By the codebase's script, and by ours with a config of the wheel."""
    pytest.importorskip('mmpretrain')
    (tmp_path / 'configs').symlink_to(root / 'configs')
    mim('run', 'nl_plugins', 'make_mini_data', '--only', 'cifar10', '--cifar10', 32, 8)
    trains = [words for words in page if words[0] == 'train']
    assert [words[1] for words in trains] == ['mmpretrain', 'nl_plugins']
    output = mim(*trains[number], '--gpus', 0, *QUICK)
    assert f'/{trains[number][1]}/.mim/tools/train.py' in output
    assert 'Training finished successfully' in output
    (test,) = (words for words in page if words[0] == 'test')
    if number:
        assert 'but we find the config file' in output
        work_dir = Path('work_dirs', Path(trains[1][2]).stem)
        test = ['test', 'nl_plugins', trains[1][2], '-C', work_dir / 'epoch_8.pth']
    output = mim(*test)
    assert f'/{test[1]}/.mim/tools/test.py' in output
    assert 'Testing finished successfully' in output


@pytest.mark.parametrize(
    'package, scope, data, last',
    [
        ('mmseg', 'segmentation', ['cityscapes', 5, 2], 'iter_2.pth'),
        ('mmaction', 'recognition', ['sthv1', 8, 4], 'epoch_1.pth'),
    ],
)
def test_train_and_test(mim, tmp_path, package, scope, data, last):
    pytest.importorskip(package)
    name, train, test = data
    mim(
        *('run', 'nl_plugins', 'make_mini_data', '--out', tmp_path / 'data'),
        *('--only', name, f'--{name}', train, test),
    )
    config = TINY / f'{scope}.py'
    options = ['--work-dir', tmp_path / 'run']
    short = 'train_cfg.max_epochs=1' if last[0] == 'e' else 'train_cfg.max_iters=2'
    output = mim('train', package, config, *options, '--cfg-options', short)
    assert re.search(r'/mm\w+/\.mim/tools/train\.py', output)
    checkpoint = tmp_path / 'run' / last
    assert checkpoint.is_file()
    output = mim('test', package, config, '-C', checkpoint, *options)
    assert re.search(r'/mm\w+/\.mim/tools/test\.py', output)
    assert 'Testing finished successfully' in output
