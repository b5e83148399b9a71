# Copyright (c) The nl_plugins authors. All rights reserved.
"""gpu_check.py without a GPU: a section, its report, and what survives a crash."""

import importlib
import json
import subprocess
import sys
import time

import pytest
import torch


@pytest.fixture
def tool(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'tools' / 'analysis_tools'))
    return importlib.import_module('gpu_check')


@pytest.fixture
def part(tool, tmp_path):
    """A module of the folder, and a section for it."""

    def load(name, seconds=60):
        module = importlib.import_module(f'gpu_checks.{name}')
        section = importlib.import_module('gpu_checks.section').Section
        return module, section(name, 'cpu', True, seconds, tmp_path)

    return load


def outcomes(section):
    return {verdict['check']: verdict['outcome'] for verdict in section.verdicts}


def only(monkeypatch, module, *names):
    from nl_plugins.blocks import BLOCKS

    few = [(name, 'v', next(iter(BLOCKS[name].variants.values()))) for name in names]
    monkeypatch.setattr(module, 'variants', lambda: few)


def test_correctness_finds_a_wrong_block(part, monkeypatch):
    module, section = part('correctness')
    monkeypatch.setattr(module, 'SMALL', {2: (2, 16, 6, 8)})
    only(monkeypatch, module, 'SNLBlock')
    module.run(section)
    assert outcomes(section)['correct in fp32'] == 'ok'

    class Wrong(torch.nn.Module):
        ndims = (2,)

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(16, 1, 1))

        def forward(self, x):  # what a kernel with too few bits would give
            return x * self.scale * (1 + (x.dtype == torch.float32) * 0.01)

    module, section = part('correctness')
    monkeypatch.setattr(module, 'build', lambda *_: Wrong())
    monkeypatch.setattr(module, 'formulated', lambda form: torch.set_grad_enabled(True))
    dense = module._results

    def results(block, x, cotangent, kind, form, device='cpu'):
        block = block.double() if form == 'dense' else block
        return dense(block, x.to(block.scale.dtype), cotangent, kind, form, device)

    monkeypatch.setattr(module, '_results', results)
    module.run(section)
    assert outcomes(section)['correct in fp32'] == 'FAIL'


def test_capture_and_compile(part, monkeypatch):
    for name in ('capture', 'compile'):
        module, section = part(name)
        only(monkeypatch, module, 'NLBlock')
        module.run(section)
        assert not section.errors
        assert {v for v in outcomes(section).values()} <= {'ok', 'not run'}
        assert 'ok' in outcomes(section).values()


@pytest.mark.parametrize('name', ['timing', 'ways'])
def test_measurements(part, monkeypatch, name):
    module, section = part(name, seconds=4)
    rates = dict(fp32=0.1, copy=10.0, cached_copy=20.0, launch=5.0)
    monkeypatch.setattr(module, 'rates', lambda device: rates)
    monkeypatch.setattr(module, 'SMALL', {'cifar': (2, 16, 4, 4)})
    monkeypatch.setattr(module, 'milliseconds', lambda run, *_: (run(), 2.0)[1])
    section.tile_sweep = True
    module.run(section)
    assert not section.errors
    if name == 'timing':
        row = section.rows['blocks'][0]
        assert row['case'] == 'NLBlock()' and row['difference'] < 1e-5
        assert row['ours']['forward'] == row['dense']['step'] == row['mmcv']['step']
        assert outcomes(section)['small maps: never below 0.97x of mmcv'] == 'ok'
    else:
        row = section.rows['ways'][0]
        assert set(row['taken']) <= set(row['ms']) and row['regret'] == 1
        assert '2^24' in section.rows['tiles'][0]
        assert section.rows['machine']['cpu/float32']['multiply_adds'] == 0.05e12
    report = importlib.import_module('gpu_checks.report')
    part = json.loads((section.save() or section.out / f'{name}.json').read_text())
    text = report.markdown({'machine': {'device': 'x'}, 'sections': {name: part}})
    assert 'NLBlock()' in text and f'## {name}' in text


STAND_INS = {
    'timing': 'write(second)',
    'ways': 'os._exit(3)',
    'networks': 'time.sleep(60)',
    'training': 'write(second, errors=["case: broke"])',
}
SCRIPT = """
import json, os, time
first = dict(check='first', outcome='ok', detail='seen')
second = dict(check='second', outcome='not run', detail='late')
def write(*more, errors=()):
    part = dict(rows={{}}, verdicts=[first, *more], errors=[*errors], skipped=[])
    with open({path!r}, 'w') as file:
        json.dump({{**part, 'seconds': 1.0}}, file)
write()
{what}
"""


def test_a_crash_loses_only_its_section(tool, tmp_path, monkeypatch, capsys):
    def begin(name, args, parts, log):
        script = SCRIPT.format(path=str(parts / f'{name}.json'), what=STAND_INS[name])
        command = [sys.executable, '-c', script]
        process = subprocess.Popen(command, start_new_session=True)
        return process, time.monotonic()

    monkeypatch.setattr(tool, 'begin', begin)
    monkeypatch.setattr(tool, 'limit', lambda name, args: 2)
    names = ','.join(STAND_INS)
    arguments = ['--device', 'cpu', '--sections', names, '--out', str(tmp_path / 'out')]
    assert tool.main(arguments) == 1
    sections = json.loads((tmp_path / 'out' / 'gpu_check.json').read_text())['sections']
    for name in STAND_INS:
        assert sections[name]['verdicts'][0]['check'] == 'first'
    found = {
        name: [v['outcome'] for v in sections[name]['verdicts']] for name in sections
    }
    assert found == dict(
        timing=['ok', 'not run'],
        ways=['ok', 'FAIL'],
        networks=['ok', 'FAIL'],
        training=['ok', 'not run', 'FAIL'],
    )
    printed = capsys.readouterr().out
    assert 'ended with status 3' in printed and 'stopped after 2 s' in printed
    assert not list((tmp_path / 'out').glob('parts'))
    assert '## ways' in (tmp_path / 'out' / 'gpu_check.md').read_text()


def test_a_wrong_command_line_is_refused(tool, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        tool.main(['--sections', 'speed'])
    assert "no section 'speed', choose from correctness," in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main(['--data', 'no.npz'])
    assert 'no.npz does not exist' in capsys.readouterr().err
    monkeypatch.setattr(tool, 'cuda_works', lambda: False)
    assert tool.main([]) == 1
    assert 'try the command with --device cpu --quick' in capsys.readouterr().out
