# Copyright (c) The nl_plugins authors. All rights reserved.
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import nl_plugins
from nl_plugins import compat
from nl_plugins.compat import repair as module
from nl_plugins.compat.repair import Repair, release, replace, version_of

ROOT = Path(nl_plugins.__file__).parents[1]


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
    with caplog.at_level(logging.DEBUG, module.logger.name):
        repair.run()
        repair.run()
    assert calls == [()] and repair.state == 'applied'
    assert [record.getMessage() for record in caplog.records] == [
        'example: it fails; it works (nowhere)'
    ]


def test_a_needless_repair_does_nothing(caplog):
    repair, calls = make(needed=False)
    with caplog.at_level(logging.DEBUG, module.logger.name):
        repair.run()
    assert calls == [] and repair.state == 'not needed' and not caplog.records


def test_a_repair_waits_for_its_modules():
    repair, calls = make(modules=('no_such_module',))
    repair.run()
    assert calls == [] and repair.state == 'waiting'
    repair, calls = make(modules=('logging',))
    repair.run()
    assert calls == [(logging,)] and repair.state == 'applied'


LINE = (
    r'nl_plugins: repairs of upstream packages: \d+ acted, \d+ wait for an import; '
    r'python -m nl_plugins.doctor lists them\n'
)
IN_A_WORKER = """
import multiprocessing, nl_plugins
if __name__ == '__main__':
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        pool.map(nl_plugins.compat.folder_of, ['nl_plugins'])
"""
IN_A_CHILD = """
import subprocess, sys, nl_plugins
subprocess.run([sys.executable, '-c', 'import nl_plugins'], check=True)
"""
LOGGED = """
import logging
logging.basicConfig(level=logging.{level}, format='%(levelname)s %(name)s')
import nl_plugins
"""


def standard_error(tmp_path, code, **variables) -> str:
    script = tmp_path / 'script.py'
    script.write_text(code)
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), **variables}
    environment.pop('NL_PLUGINS_ANNOUNCED', None)
    result = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout == ''
    return result.stderr


@pytest.mark.parametrize('code', ['import nl_plugins', IN_A_WORKER, IN_A_CHILD])
def test_an_import_says_one_line_and_processes_after_it_none(tmp_path, code):
    assert re.fullmatch(LINE, standard_error(tmp_path, code))


@pytest.mark.parametrize(
    'variables',
    [dict(RANK='1'), dict(SLURM_PROCID='3'), dict(NL_PLUGINS_COMPAT='0')],
    ids=lambda variables: next(iter(variables)),
)
def test_there_is_nothing_to_say(tmp_path, variables):
    assert standard_error(tmp_path, 'import nl_plugins', **variables) == ''


QUIET = """
import logging
logging.getLogger('nl_plugins.compat').setLevel('WARNING')
import nl_plugins
"""


def test_who_configures_logging_decides(tmp_path):
    assert standard_error(tmp_path, QUIET) == ''
    assert standard_error(tmp_path, LOGGED.format(level='WARNING')) == ''
    said = standard_error(tmp_path, LOGGED.format(level='INFO'))
    assert said == 'INFO nl_plugins.compat\n'
    said = standard_error(tmp_path, LOGGED.format(level='DEBUG')).splitlines()
    assert said.count('INFO nl_plugins.compat') == 1
    assert said.count('DEBUG nl_plugins.compat') >= 1


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
