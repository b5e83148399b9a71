# Copyright (c) The nl_plugins authors. All rights reserved.
"""Rates of a machine: measured, written, read; the benchmarks of the planner."""

import argparse
import json
import math
import os
import subprocess
import sys

import pytest

from nl_plugins.graph.machine import MACHINES, read_machines


@pytest.fixture
def tools(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'tools' / 'analysis_tools'))


def test_measured_rates_are_read_back(tools, tmp_path, monkeypatch):
    import calibrate

    found = calibrate.best_times
    monkeypatch.setattr(
        calibrate, 'best_times', lambda runs, _, *rest: found(runs, 0.01, *rest)
    )
    path = tmp_path / 'rates.json'
    calibrate.main([str(path)])
    machines = read_machines(path)
    rates = json.loads(path.read_text())
    for name in ('cpu/float32', 'cpu/float64', 'cpu/half'):
        machine = machines[tuple(name.split('/'))]
        assert machine.measured and machine.multiply_adds > 1e7
        assert machine.call == rates[name]['call']
        assert 0 < machine.attention <= 1
    assert machines['cuda', 'half'] == MACHINES['cuda', 'half']
    assert list(tmp_path.iterdir()) == [path]


def test_the_variable_names_the_file(tmp_path):
    path = tmp_path / 'rates.json'
    path.write_text('{"cpu/float32": {"call": 0.25}}')
    program = (
        'from nl_plugins.graph.machine import machine_of;'
        'print(machine_of("cpu", "float32").call, machine_of("mps", "float32").call)'
    )
    done = subprocess.run(
        [sys.executable, '-c', program],
        env={**os.environ, 'NL_PLUGINS_MACHINE': str(path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ['0.25', '0.25']


@pytest.mark.parametrize(
    'text, reason',
    [
        ('', 'Expecting value'),
        ('[]', "'list' object"),
        ('{"cpu/float32": 3}', "'int' object"),
        ('{"cpu/float8": {}}', 'float8'),
        ('{"cpu/float32": {"calls": 1}}', "no rate 'calls'"),
        ('{"cpu/float32": {"call": "fast"}}', 'not supported'),
        ('{"cpu/float32": {"call": -1}}', 'no positive number'),
        ('{"cpu/float32": {"call": true}}', 'no positive number'),
        (None, 'No such file'),
    ],
)
def test_a_wrong_file_is_named(text, reason, tmp_path):
    path = tmp_path / 'rates.json'
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=reason) as caught:
        read_machines(path)
    assert str(path) in str(caught.value) and 'calibrate.py' in str(caught.value)


def test_regret_of_a_few_cases(tools):
    import benchmark_regret as regret

    small = [
        case
        for case in regret.cases(None, 0)
        if case[1] * case[2] * case[3] <= 2048 and case[2] > 4
    ]
    kinds = {case[0]: case for case in small}
    assert set(kinds) == set(regret.KINDS)
    rows = [regret.measure(case, 0.001, 'cpu') for case in kinds.values()]
    for row in rows:
        assert row.taken in row.seconds
        assert all(math.isfinite(seconds) for seconds in row.seconds.values())
        assert row.regret >= 1
    assert '| all | 8 |' in regret.table(rows)


def test_whole_networks_of_ours(tools, root):
    pytest.importorskip('mmpretrain')
    import benchmark
    import benchmark_networks as networks

    args = argparse.Namespace(
        only=['preresnet20 ANLBlock'], repeats=1, seconds=0.01, device='cpu'
    )

    def times(runs, seconds, device):
        return benchmark.best_times(runs, seconds, device, benchmark.CLOCKS['wall'])

    (row,) = networks.rows(args, times)
    assert row.forward[0] > 0 and row.step[0] > 0 and row.memory > 0
    assert 'preresnet20 ANLBlock' in networks.table([row])
    names = [case[0] for case in networks.cases() if 'preresnet20' in case[0]]
    assert len(names) == len(set(names)) == 12
