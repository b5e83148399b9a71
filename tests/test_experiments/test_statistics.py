# Copyright (c) The nl_plugins authors. All rights reserved.
"""Runs that are gone on with, paired intervals, and the control block."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from nl_plugins.analysis import effective_receptive_field
from nl_plugins.blocks import NLBlock


def test_runs_are_gone_on_with(script, tmp_path):
    Runs, path = script('runs').Runs, tmp_path / 'new' / 'x.json'
    runs = Runs(path, dict(size=(1, 2)))
    runs.add(dict(seed=0, variant='a', score=1.0))
    assert [file.name for file in path.parent.iterdir()] == ['x.json']
    again = Runs(path, dict(size=(1, 2)))
    assert again.has(0, 'a') and not again.has(1, 'a') and not again.has(0, 'b')
    again.add(dict(seed=1, variant='a', score=2.0))
    assert len(json.loads(path.read_text())['runs']) == 2
    with pytest.raises(ValueError, match='other size.*another --out'):
        Runs(path, dict(size=(1, 3)))


def test_paired_intervals(script):
    interval = script('runs').paired_interval
    # Of three pairs, 1 of 27 resamples is all the smallest: more than 2.5 %.
    found = interval([1.0, 2.0, 4.0], [0.0, 1.5, 2.0])
    assert found == pytest.approx((3.5 / 3, 0.5, 2.0))
    # Of five, 0.032 % are, and 0.16 % more have one of the second smallest.
    mean, low, high = interval([0.0, 1, 2, 3, 10], [0.0] * 5)
    draws = sorted(map(sum, itertools.product([0, 1, 2, 3, 10], repeat=5)))
    assert low == pytest.approx(draws[3125 * 25 // 1000] / 5)
    assert 0 < low < mean == pytest.approx(3.2) and mean < high < 10
    mean, low, high = interval([2.0], [1.0])
    assert mean == 1 and math.isnan(low) and math.isnan(high)
    with pytest.raises(ValueError, match='one baseline a seed'):
        interval([1.0], [])


def test_the_interval_covers(script):
    """Of 40 pairs it holds the true difference about as often as it says."""
    interval, generator = script('runs').paired_interval, np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        base = generator.normal(size=40)
        _, low, high = interval(base + generator.normal(0.5, 1, 40), base, 0.9, 500)
        hits += low < 0.5 < high
    assert 0.82 < hits / 200 < 0.96


def test_the_control_sees_one_position_and_weighs_as_much_as_a_block(script):
    torch.manual_seed(0)
    control = script('control').PointwiseBlock(16, zeros_init=False).eval()
    field = effective_receptive_field(control, [torch.randn(2, 16, 9, 9)])
    assert field.energy[4, 4].item() == pytest.approx(1)

    def weights(block):
        return sum(p.numel() for p in block.parameters() if p.ndim > 1)

    assert weights(control) == weights(NLBlock(16))
    started = script('control').PointwiseBlock(16)
    x = torch.randn(2, 16, 5, 5)
    assert torch.equal(started.eval()(x), x)
