# Copyright (c) The nl_plugins authors. All rights reserved.
"""The table of memory against positions: every affinity is in it, the fit is right."""

import importlib.util

import pytest
import torch

from nl_plugins import graph


@pytest.fixture(scope='module')
def growth(root):
    path = root / 'tools/analysis_tools/memory_growth.py'
    spec = importlib.util.spec_from_file_location('memory_growth', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_affinity_of_the_package_is_measured(growth):
    query, key = torch.rand(2, 1, 16, 4)
    built = {type(growth.build(name, query, key)).__name__ for name in growth.NAMES}
    public = {name for name in graph.__all__ if name.endswith('Affinity')}
    assert built == public - {'Affinity', 'LowRankAffinity', 'SumAffinity'}


def test_exponent_of_a_power(growth):
    assert growth.exponent([2, 4, 16], [3 * n**1.5 for n in (2, 4, 16)]) == (
        pytest.approx(1.5)
    )


def test_table(growth, capsys):
    arguments = '--positions 64 128 256 --quadratic 128 --affinities softmax dot'
    growth.main(arguments.split())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split('|')[1].strip() for line in lines[3:]] == 2 * ['softmax'] + (
        2 * ['dot']
    )
    assert lines[3].count('–') == 1
    assert float(lines[-1].split('|')[-2]) < 1.2
