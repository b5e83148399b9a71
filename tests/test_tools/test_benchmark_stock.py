# Copyright (c) The nl_plugins authors. All rights reserved.
"""The benchmark of the codebases' own modules builds and compares each of them."""

import importlib
import re

import pytest
import torch

pytest.importorskip('mmseg')


@pytest.fixture
def benchmark_stock(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'tools' / 'analysis_tools'))
    module = importlib.import_module('benchmark_stock')
    small = {
        name: stock._replace(
            shapes=tuple((1, shape[1], 4, 4) for shape in stock.shapes), keys=16
        )
        for name, stock in module.MODULES.items()
    }
    monkeypatch.setattr(module, 'MODULES', small)
    return module


def test_every_module_is_built(benchmark_stock):
    for stock in benchmark_stock.MODULES.values():
        inputs = [torch.randn(shape) for shape in stock.shapes]
        assert stock.make().eval()(*inputs).shape == inputs[0].shape


def test_rows(benchmark_stock, capsys):
    from nl_plugins import accelerate

    names = ['DAHead', 'OCRHead']
    benchmark_stock.main(['--seconds', '0.001', '--only', *names])
    lines = [line for line in capsys.readouterr().out.splitlines() if '|' in line]
    assert len(lines) == 2 + len(names)
    for name, line in zip(names, lines[2:]):
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        assert cells[0] == name and len(cells) == 7
        assert all('→' in cell for cell in cells[2:6])
        assert re.fullmatch(r'\de[-+]\d\d', cells[6]) and float(cells[6]) < 1e-5
    assert not accelerate.is_applied()
