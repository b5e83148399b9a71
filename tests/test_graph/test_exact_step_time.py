# Copyright (c) The nl_plugins authors. All rights reserved.
"""The script that measures what exact slopes cost, on a small map."""

import importlib.util

import torch

from nl_plugins.graph.strategies import crossing, tiles


def test_both_slopes_are_timed(root, monkeypatch, capsys):
    path = root / '.dev_scripts' / 'exact_step_time.py'
    spec = importlib.util.spec_from_file_location('exact_step_time', path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    cases = (('NLBlock', {}, (1, 8, 48, 48)), ('CCBlock', {}, (1, 8, 16, 16)))
    monkeypatch.setattr(script, 'CASES', cases)
    monkeypatch.setattr('sys.argv', ['exact_step_time.py', '--repeats', '2'])
    before, threads = tiles.softmax_slope, torch.get_num_threads()
    try:
        script.main()
    finally:
        torch.set_num_threads(threads)
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(' | ')[0] for row in rows] == ['| NLBlock', '| CCBlock']
    assert tiles.softmax_slope is before is crossing.softmax_slope
