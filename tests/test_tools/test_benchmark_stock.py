# Copyright (c) The nl_plugins authors. All rights reserved.
"""The benchmark of the codebases' own modules builds and compares each of them."""

import importlib
import re

import pytest

pytest.importorskip('mmseg')


@pytest.fixture
def benchmark_stock(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'tools' / 'analysis_tools'))
    module = importlib.import_module('benchmark_stock')
    small = {
        name: stock._replace(
            shapes=tuple((*shape[:2], 4, 4) for shape in stock.shapes), keys=16
        )
        for name, stock in module.MODULES.items()
    }
    monkeypatch.setattr(module, 'MODULES', small)
    return module


def test_every_module_has_a_row(benchmark_stock, capsys):
    from nl_plugins import accelerate

    benchmark_stock.main(['--seconds', '0.001'])
    lines = [line for line in capsys.readouterr().out.splitlines() if '|' in line]
    assert len(lines) == 2 + len(benchmark_stock.MODULES)
    for name, line in zip(benchmark_stock.MODULES, lines[2:]):
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        assert cells[0] == name and len(cells) == 7
        assert all('→' in cell for cell in cells[2:6])
        assert re.fullmatch(r'\de[-+]\d\d', cells[6]) and float(cells[6]) < 1e-5
    assert not accelerate.is_applied()
