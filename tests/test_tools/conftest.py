# Copyright (c) The nl_plugins authors. All rights reserved.
"""The package as its users get it: a wheel, installed in a folder of its own."""

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a build reads.
SOURCES = ('nl_plugins', 'configs', 'tools', 'LICENSE', 'README.md')
SOURCES += ('model-index.yml', 'pyproject.toml', 'setup.cfg')


def pip(*arguments) -> None:
    result = subprocess.run(
        [sys.executable, '-m', 'pip', '--disable-pip-version-check', *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-4000:]


@pytest.fixture(scope='session')
def wheel(tmp_path_factory) -> Path:
    """A wheel of this tree, built in a copy: a build leaves folders behind."""
    # Not imported: setuptools refuses to follow pip into one process.
    for package in ('pip', 'setuptools', 'wheel'):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            pytest.skip(f'{package} is not installed')
    copy = tmp_path_factory.mktemp('source')
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True)
        else:
            shutil.copy(source, copy / name)
    # What running the scripts leaves in a checkout must not get into the wheel.
    for folder in ('nl_plugins', 'tools', 'configs'):
        cache = copy / folder / '__pycache__'
        cache.mkdir(exist_ok=True)
        (cache / 'left.cpython-311.pyc').write_text('')
    out = copy / 'dist'
    # Without isolation: the setuptools of this environment, nothing from a network.
    flags = ['--no-deps', '--no-build-isolation', '--wheel-dir', str(out)]
    pip('wheel', *flags, str(copy))
    (wheel,) = out.iterdir()
    return wheel


@pytest.fixture(scope='session')
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with nothing but the installed wheel, for ``PYTHONPATH``."""
    target = tmp_path_factory.mktemp('site')
    pip('install', '--no-deps', '--no-index', '--target', str(target), str(wheel))
    return target
