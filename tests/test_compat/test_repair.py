# Copyright (c) The nl_plugins authors. All rights reserved.
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

import nl_plugins
from nl_plugins import compat
from nl_plugins.compat import repair as module
from nl_plugins.compat.repair import Repair, release, replace, version_of


def make(needed=True, modules=()):
    calls = []
    repair = Repair(
        name='example',
        symptom='it fails',
        remedy='it works',
        upstream='nowhere',
        needed=lambda: needed,
        apply=lambda *args: calls.append(args),
        modules=modules,
    )
    return repair, calls


def test_a_needed_repair_is_applied_and_logged_once(caplog):
    repair, calls = make()
    with caplog.at_level(logging.INFO, module.logger.name):
        repair.run()
        repair.run()
    assert calls == [()] and repair.state == 'applied'
    assert [record.getMessage() for record in caplog.records] == [
        'example: it fails; it works (nowhere)'
    ]


def test_a_needless_repair_does_nothing(caplog):
    repair, calls = make(needed=False)
    with caplog.at_level(logging.INFO, module.logger.name):
        repair.run()
    assert calls == [] and repair.state == 'not needed' and not caplog.records


def test_a_repair_waits_for_its_modules():
    repair, calls = make(modules=('no_such_module',))
    repair.run()
    assert calls == [] and repair.state == 'waiting'
    repair, calls = make(modules=('logging',))
    repair.run()
    assert calls == [(logging,)] and repair.state == 'applied'


def test_only_the_first_process_logs(caplog, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    repair, calls = make()
    with caplog.at_level(logging.INFO, module.logger.name):
        repair.run()
    assert calls == [()] and not caplog.records


def test_the_switch(monkeypatch):
    repair, calls = make()
    monkeypatch.setattr(compat, 'REPAIRS', (repair,))
    monkeypatch.setenv('NL_PLUGINS_COMPAT', '0')
    compat.repair_all()
    assert calls == [] and repair.state == 'switched off'
    monkeypatch.setenv('NL_PLUGINS_COMPAT', '1')
    compat.repair_all()
    compat.repair_all()
    assert calls == [()] and repair.state == 'applied'


def test_every_file_holds_the_repair_of_its_name():
    folder = Path(nl_plugins.__file__).parent / 'compat'
    files = {path.stem for path in folder.glob('*.py')}
    names = [repair.name for repair in compat.REPAIRS]
    assert len(names) == len(set(names))
    helpers = {'__init__', 'imports', 'operators', 'plain_arrays', 'repair'}
    assert files - set(names) == helpers
    for repair in compat.REPAIRS:
        assert repair.symptom and repair.remedy and repair.upstream


def test_replace_wraps_once():
    owner = SimpleNamespace(double=lambda x: 2 * x)

    def make(original):
        return lambda x: original(x) + 1

    for _ in range(2):
        replace(owner, 'double', make)
    assert owner.double(3) == 7


@pytest.mark.parametrize(
    'text, numbers',
    [('2.14.1', (2, 14, 1)), ('2.1.2+cpu', (2, 1, 2)), ('2.0.0rc1', (2, 0, 0))],
)
def test_release(text, numbers):
    assert release(text) == numbers


def test_version_of_takes_the_first_installed():
    assert version_of('no-such-distribution') is None
    assert version_of('no-such-distribution', 'torch') == version_of('torch')
