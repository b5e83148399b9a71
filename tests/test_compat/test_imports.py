# Copyright (c) The nl_plugins authors. All rights reserved.
import importlib
import sys
from contextlib import contextmanager

import pytest

from nl_plugins.compat.imports import (
    _WATCHER,
    around_import,
    folder_of,
    is_installed,
    when_imported,
)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package ``watched`` with a good and a failing module."""
    folder = tmp_path / 'watched'
    folder.mkdir()
    (folder / '__init__.py').write_text('')
    (folder / 'good.py').write_text('VALUE = 1\n')
    (folder / 'bad.py').write_text('raise RuntimeError("broken")\n')
    monkeypatch.syspath_prepend(tmp_path)
    yield 'watched'
    for name in [name for name in sys.modules if name.split('.')[0] == 'watched']:
        del sys.modules[name]
    for waiting in (_WATCHER.after, _WATCHER.around):
        for name in [name for name in waiting if name.startswith('watched')]:
            del waiting[name]


def test_an_action_waits_for_the_import(package):
    seen = []
    when_imported('watched.good', lambda module: seen.append(module.VALUE))
    assert seen == [] and 'watched' not in sys.modules
    importlib.import_module('watched.good')
    assert seen == [1]
    importlib.import_module('watched.good')
    assert seen == [1]


def test_an_action_is_done_at_once_when_it_is_too_late(package):
    module = importlib.import_module('watched.good')
    seen = []
    when_imported('watched.good', seen.append)
    assert seen == [module]


def test_an_action_is_repeated_after_a_reload(package):
    when_imported('watched.good', lambda module: setattr(module, 'VALUE', 2))
    module = importlib.import_module('watched.good')
    seen = []
    when_imported('watched.good', lambda module: seen.append(module.VALUE))
    module.VALUE = 0
    assert importlib.reload(module).VALUE == 2
    assert seen == [2, 2]


def test_a_failing_module_raises_its_own_error(package):
    seen = []
    when_imported('watched.bad', seen.append)
    with pytest.raises(RuntimeError, match='broken'):
        importlib.import_module('watched.bad')
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module('watched.absent')
    assert seen == []


@pytest.mark.parametrize('module', ['good', 'bad'])
def test_a_context_surrounds_the_execution(package, module):
    events = []

    @contextmanager
    def context():
        events.append('enter')
        try:
            yield
        finally:
            events.append('exit')

    around_import(f'watched.{module}', context)
    try:
        importlib.import_module(f'watched.{module}')
    except RuntimeError:
        assert module == 'bad'
    assert events == ['enter', 'exit']


def test_is_installed(package):
    assert is_installed('watched') and 'watched' not in sys.modules
    assert is_installed('watched.good')
    assert not is_installed('watched.absent')
    assert not is_installed('no_such_package')
    assert not is_installed('no_such_package.module')


def test_folder_of(package, tmp_path):
    assert folder_of('watched') == tmp_path / 'watched'
    assert folder_of('no_such_package') is None
    assert folder_of('no_such_package.module') is None
