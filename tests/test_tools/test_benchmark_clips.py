# Copyright (c) The nl_plugins authors. All rights reserved.
"""The benchmark of whole clips: both formulations give one answer and one row."""

import argparse
import importlib
import json

import pytest

pytest.importorskip('mmaction')

CONFIG = 'configs/recognition/rnl/c2d_r18-rnl_1xb16-8x4x1-8e_mini-sthv1-rgb.py'


@pytest.fixture
def tool(root, monkeypatch):
    """The script, measuring in this process instead of a fresh one each."""
    monkeypatch.syspath_prepend(str(root / 'tools' / 'analysis_tools'))
    tool = importlib.import_module('benchmark_clips')

    def here(config, clip, formulation, args):
        options = dict(vars(args), config=config, clip=[clip], formulation=formulation)
        return tool.measure(argparse.Namespace(**options))

    monkeypatch.setattr(tool, 'in_a_process', here)
    return tool


def test_a_row_compares_both_formulations(tool, root, tmp_path, capsys):
    out = tmp_path / 'rows.json'
    tool.main([str(root / CONFIG), '--clip', '8,32', '--out', str(out)])
    (row,) = json.loads(out.read_text())
    assert row['difference'] < 1e-4
    assert (row['frames'], row['size']) == (8, 32)
    for kind in tool.FORMULATIONS:
        assert row[f'{kind}_forward_s'] > 0 and row[f'{kind}_step_mib'] >= 0
    printed = capsys.readouterr().out
    assert f'| {row["config"].split("_8xb")[0]} | 8 x 32² |' in printed


def test_without_a_clip_it_explains_itself(tool, capsys):
    with pytest.raises(SystemExit):
        tool.main(['config.py'])
    assert '--clip' in capsys.readouterr().err
