# Copyright (c) The nl_plugins authors. All rights reserved.
import json
import os
import re
import subprocess
import sys

import pytest

from nl_plugins import compat, doctor
from nl_plugins.codebases import CODEBASES


@pytest.fixture
def working(monkeypatch):
    """Every import succeeds, quickly."""
    monkeypatch.setattr(doctor, '_problem_of', lambda module: None)
    installed = compat.is_installed
    monkeypatch.setattr(
        compat, 'is_installed', lambda name: name in CODEBASES or installed(name)
    )


def test_reports_versions_devices_and_repairs(working):
    report = doctor.diagnose()
    assert report['ok'] is True
    assert report['versions']['torch'] and report['versions']['python']
    assert report['devices']['cpu_cores'] >= 1
    assert [r['name'] for r in report['repairs']] == [r.name for r in compat.REPAIRS]
    for repair in report['repairs']:
        assert repair['acted'] is (repair['state'] == 'applied')
    assert json.loads(json.dumps(report)) == report
    text = doctor.render(report)
    for repair in compat.REPAIRS:
        assert repair.name in text


@pytest.mark.parametrize(
    'torch_version, variables, said',
    [
        ('2.14.1', {}, '^restricted: a checkpoint runs no code'),
        ('2.14.1', dict(NL_PLUGINS_COMPAT='0'), 'to tensors.*mmengine are refused'),
        (
            '2.14.1',
            dict(TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD='1'),
            '^unrestricted, as TORCH_FORCE',
        ),
        ('2.5.1+cpu', {}, '^unrestricted, as torch .* converters stay restricted'),
    ],
)
def test_says_whether_checkpoints_can_run_code(
    working, monkeypatch, torch_version, variables, said
):
    torch = pytest.importorskip('torch')
    monkeypatch.setattr(torch, '__version__', torch_version)
    for name in ('NL_PLUGINS_COMPAT', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    report = doctor.diagnose(('mmseg',))
    assert re.search(said, report['loading'])
    assert report['loading'] in doctor.render(report)


def test_a_missing_codebase_cannot_work(working, monkeypatch, capsys):
    installed = compat.is_installed
    monkeypatch.setattr(
        compat, 'is_installed', lambda name: name != 'mmseg' and installed(name)
    )
    assert doctor.main([]) == 1
    text = capsys.readouterr().out
    assert 'mmseg' in text and '[segmentation]' in text
    assert (
        dict(package='mmseg', remedy=CODEBASES['mmseg'].remedy)
        in (doctor.diagnose()['missing'])
    )
    # A user who wants only another one is told so.
    assert doctor.main(['mmpretrain']) == 0


def test_a_broken_codebase_cannot_work(working, monkeypatch):
    monkeypatch.setattr(
        doctor,
        '_problem_of',
        lambda module: 'ImportError: no DRN' if module == 'mmaction.models' else None,
    )
    report = doctor.diagnose(('mmaction', 'mmpretrain'))
    assert report['ok'] is False
    assert [c['works'] for c in report['codebases']] == [False, True]
    assert report['codebases'][0]['problem'] == (
        'import mmaction.models: ImportError: no DRN'
    )


def test_a_missing_system_library_has_its_own_remedy(working, monkeypatch):
    problem = 'ImportError: libGL.so.1: cannot open shared object file'
    monkeypatch.setattr(doctor, '_problem_of', lambda module: problem)
    (codebase,) = doctor.diagnose(('mmseg',))['codebases']
    assert codebase['remedy'] == doctor.HEADLESS


@pytest.mark.parametrize('compat_is, remedy', [('1', doctor.LENIENT), ('0', None)])
def test_no_reinstall_is_advised_where_none_helps(monkeypatch, compat_is, remedy):
    """Warnings made errors, or an upstream defect whose repair is switched off."""
    monkeypatch.setenv('NL_PLUGINS_COMPAT', compat_is)
    problem = 'UserWarning: x is old' if remedy else 'ImportError: mmcv._ext is missing'
    monkeypatch.setattr(doctor, '_problem_of', lambda module: problem)
    (codebase,) = doctor.diagnose(('mmseg',))['codebases']
    assert codebase['remedy'] == (remedy or 'unset NL_PLUGINS_COMPAT')
    assert problem in codebase['problem'] and not codebase['works']


def test_a_missing_package_is_named_with_its_command(working, monkeypatch):
    installed = compat.is_installed
    monkeypatch.setattr(
        compat, 'is_installed', lambda name: name != 'ftfy' and installed(name)
    )
    wanted = dict(package='ftfy', remedy='pip install ftfy')
    assert wanted in doctor.diagnose(('mmseg',))['missing']
    assert wanted not in doctor.diagnose(('mmpretrain',))['missing']


def test_what_scripts_need_is_optional(working, monkeypatch):
    installed = compat.is_installed
    monkeypatch.setattr(
        compat, 'is_installed', lambda name: name != 'seaborn' and installed(name)
    )
    report = doctor.diagnose(('mmseg',))
    wanted = dict(package='seaborn', remedy='pip install seaborn')
    assert wanted in report['optional'] and wanted not in report['missing']
    assert report['ok'] and 'pip install seaborn' in doctor.render(report)
    assert wanted not in doctor.diagnose(('mmaction',))['optional']


def test_without_mmengine(working, monkeypatch):
    installed = compat.is_installed
    monkeypatch.setattr(
        compat, 'is_installed', lambda name: name != 'mmengine' and installed(name)
    )
    report = doctor.diagnose()
    assert not report['ok']
    assert any(missing['package'] == 'mmengine' for missing in report['missing'])


def test_problem_of_reports_in_one_line(tmp_path, monkeypatch):
    (tmp_path / 'broken_module.py').write_text('raise ValueError("one\\n two")\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor._problem_of('broken_module') == 'ValueError: one two'
    assert doctor._problem_of('json') is None


def test_an_unknown_codebase_is_refused(capsys):
    with pytest.raises(SystemExit):
        doctor.main(['mmrotate'])
    assert 'choose from mmpretrain, mmseg, mmaction, mmdet' in capsys.readouterr().err


@pytest.mark.parametrize('warnings', ['default', 'error'])
def test_the_command_prints_json_and_nothing_else(root, warnings):
    for package in CODEBASES:
        pytest.importorskip(package)
    environment = {**os.environ, 'PYTHONWARNINGS': warnings}
    environment.pop('NL_PLUGINS_ANNOUNCED', None)
    result = subprocess.run(
        [sys.executable, '-m', 'nl_plugins.doctor', '--json'],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    # Under `default` Python shows DeprecationWarnings, too, which stay as they are.
    assert warnings == 'default' or result.stderr == ''
    report = json.loads(result.stdout)
    assert result.returncode == 0, report['codebases']
    assert all(codebase['works'] for codebase in report['codebases'])
    assert report['missing'] == []
