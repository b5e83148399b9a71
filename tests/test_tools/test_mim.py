# Copyright (c) The nl_plugins authors. All rights reserved.
"""The commands of MIM with the installed wheel and the codebases' own scripts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mim', reason='needs openmim: pip install openmim')

TINY = Path(__file__).resolve().parent / 'tiny'


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


def test_search(mim):
    output = mim(
        'search', 'nl_plugins', '--model', 'SNL Segmentation', '--valid-config'
    )
    assert 'snl_r50-d8_4xb2-40k_cityscapes-512x1024' in output
    assert 'preresnet20-snl1' not in output
    name = 'preresnet20-snl1_1xb32-8e_mini-cifar10'
    output = mim('search', 'nl_plugins', '--config', name, '--display-width', 300)
    assert f'config id: {name}' in output
    assert 'configs/classification/snl/' in output


def test_run(mim, tmp_path):
    out = tmp_path / 'data'
    output = mim(
        *('run', 'nl_plugins', 'make_mini_data', '--out', out, '--only', 'cifar10'),
        *('--cifar10', 8, 4),
    )
    assert '.mim/tools/dataset_converters/make_mini_data.py' in output
    assert (out / 'cifar10').is_dir()


@pytest.mark.parametrize(
    'package, scope, data, last',
    [
        ('mmpretrain', 'classification', ['cifar10', 8, 4], 'epoch_1.pth'),
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
