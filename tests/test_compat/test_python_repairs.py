# Copyright (c) The nl_plugins authors. All rights reserved.
"""Repairs of what Python, numpy, setuptools and moviepy took away."""

import importlib
import os
import pkgutil
import subprocess
import sys
from importlib.machinery import PathFinder
from types import ModuleType

import numpy as np
import pytest

from nl_plugins.compat import (
    find_loader,
    missing_distutils,
    moviepy_editor,
    numpy_names,
    package_resources,
)

REMOVED = ('Inf', 'NAN', 'in1d', 'trapz')


def test_missing_numpy_names_are_provided(monkeypatch):
    for name in REMOVED:
        monkeypatch.delattr(np, name, raising=False)
    if not hasattr(np, 'trapezoid'):
        monkeypatch.setattr(np, 'trapezoid', lambda y, x: 1.0, raising=False)
    assert numpy_names.needed()
    numpy_names.apply()
    assert not numpy_names.needed()
    assert np.Inf == float('inf') and np.isnan(np.NAN)
    found = np.in1d([[1, 2], [3, 4]], [2, 3])
    np.testing.assert_array_equal(found, [False, True, True, False])
    assert np.trapz([1.0, 1.0], [0.0, 1.0]) == 1.0


def test_present_numpy_names_are_left_alone(monkeypatch):
    for name in REMOVED:
        monkeypatch.setattr(np, name, f'own {name}', raising=False)
    assert not numpy_names.needed()
    numpy_names.apply()
    assert [getattr(np, name) for name in REMOVED] == [f'own {n}' for n in REMOVED]


def test_find_loader(monkeypatch):
    monkeypatch.delattr(pkgutil, 'find_loader', raising=False)
    assert find_loader.needed()
    find_loader.apply()
    assert not find_loader.needed()
    assert pkgutil.find_loader('json') is not None
    assert pkgutil.find_loader('no_such_package') is None


def test_find_loader_is_left_alone_where_it_exists(monkeypatch):
    monkeypatch.setattr(pkgutil, 'find_loader', 'own', raising=False)
    assert not find_loader.needed()
    find_loader.apply()
    assert pkgutil.find_loader == 'own'


@pytest.mark.parametrize(
    'version, installed, needed',
    [
        ((3, 11), {'setuptools'}, False),
        ((3, 12), {'setuptools'}, True),
        ((3, 12), {'setuptools', 'distutils'}, False),
        ((3, 12), set(), False),
    ],
)
def test_distutils(monkeypatch, version, installed, needed):
    monkeypatch.setattr(sys, 'version_info', version)
    monkeypatch.setattr(missing_distutils, 'is_installed', installed.__contains__)
    assert missing_distutils.needed() is needed


def test_distutils_is_there_after_the_repair(root):
    # In a process of its own: setuptools refuses to follow pip into one.
    code = (
        'from nl_plugins.compat import missing_distutils\n'
        'missing_distutils.apply()\n'
        'import distutils.errors\n'
    )
    environment = dict(os.environ, PYTHONPATH=str(root))
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)


@pytest.mark.parametrize(
    'version, needed', [(None, False), ((1, 0, 3), False), ((2, 0), True)]
)
def test_moviepy_is_needed_since_2(monkeypatch, version, needed):
    monkeypatch.setattr(moviepy_editor, 'version_of', lambda name: version)
    assert moviepy_editor.needed() is needed


def test_moviepy_editor_answers_with_moviepy(monkeypatch):
    moviepy = ModuleType('moviepy')
    moviepy.ImageSequenceClip = object()
    monkeypatch.setitem(sys.modules, 'moviepy', moviepy)
    # The first call lets monkeypatch restore the entry afterwards.
    monkeypatch.setitem(sys.modules, 'moviepy.editor', None)
    del sys.modules['moviepy.editor']
    moviepy_editor.apply()
    editor = importlib.import_module('moviepy.editor')
    assert editor.ImageSequenceClip is moviepy.ImageSequenceClip
    with pytest.raises(AttributeError):
        _ = editor.NoSuchClip


@pytest.fixture
def no_pkg_resources(monkeypatch):
    """Python as with setuptools 82: no ``pkg_resources`` anywhere."""
    for name in [name for name in sys.modules if name.startswith('pkg_resources')]:
        monkeypatch.delitem(sys.modules, name)
    find_spec = PathFinder.find_spec

    def hiding(fullname, path=None, target=None):
        if fullname.split('.')[0] == 'pkg_resources':
            return None
        return find_spec(fullname, path, target)

    monkeypatch.setattr(PathFinder, 'find_spec', staticmethod(hiding))
    yield
    sys.modules.pop('pkg_resources', None)
    if package_resources._FINDER in sys.meta_path:
        sys.meta_path.remove(package_resources._FINDER)


def test_package_resources_stands_in(no_pkg_resources):
    utils = pytest.importorskip('mmengine.utils')
    assert package_resources.needed()
    with pytest.raises(ModuleNotFoundError):
        utils.get_installed_path('torch')
    for _ in range(2):
        package_resources.apply()
    assert sum(finder is package_resources._FINDER for finder in sys.meta_path) == 1
    assert not package_resources.needed()
    assert os.path.isdir(utils.get_installed_path('torch'))
    assert utils.is_installed('torch')
    assert not utils.is_installed('no_such_package')


def test_package_resources_finds_a_codebase_by_its_distribution(no_pkg_resources):
    pytest.importorskip('mmseg')
    utils = pytest.importorskip('mmengine.utils')
    package_resources.apply()
    try:
        path = utils.get_installed_path('mmsegmentation')
    except package_resources.DistributionNotFound:
        pytest.skip('mmseg comes from another distribution')
    assert os.path.basename(path) == 'mmseg' and os.path.isdir(path)


def test_package_resources_is_not_needed_where_it_exists():
    pytest.importorskip('pkg_resources')
    assert not package_resources.needed()
