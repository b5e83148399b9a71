# Copyright (c) The nl_plugins authors. All rights reserved.
"""Runs of an experiment in one JSON, and paired statistics over its seeds."""

from __future__ import annotations

import itertools
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch


class Runs:
    """The finished runs of an experiment, kept in a JSON after each one.

    A run is a dict with ``seed`` and ``variant``. A file of another setting is not
    gone on with.

    Args:
        path (Path): The JSON.
        setting (dict): What all runs have in common.

    Raises:
        ValueError: If the file holds runs of another setting.
    """

    def __init__(self, path: Path, setting: dict) -> None:
        self.path = Path(path)
        self.setting = json.loads(json.dumps(setting))
        self.runs: list[dict] = []
        if self.path.exists():
            stored = json.loads(self.path.read_text())
            if stored['setting'] != self.setting:
                changed = [
                    key
                    for key in {*stored['setting'], *self.setting}
                    if stored['setting'].get(key) != self.setting.get(key)
                ]
                raise ValueError(
                    f'{self.path} holds runs with other {", ".join(sorted(changed))}: '
                    'give the same options, or another --out'
                )
            self.runs = stored['runs']

    def has(self, seed: int, variant: str) -> bool:
        """Whether this run is finished."""
        return any(r['seed'] == seed and r['variant'] == variant for r in self.runs)

    def add(self, run: dict) -> None:
        """Keep a run, and write the file."""
        self.runs.append(run)
        self.write()

    def write(self) -> None:
        """Write the file whole or not at all."""
        content = dict(
            setting=self.setting,
            machine=f'{os.cpu_count()} {platform.machine()} CPU cores, '
            f'torch {torch.__version__.split("+")[0]}',
            runs=self.runs,
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix('.tmp')
        temporary.write_text(json.dumps(content, indent=1) + '\n')
        os.replace(temporary, self.path)


def paired_interval(
    scores: Sequence[float],
    baseline: Sequence[float],
    level: float = 0.95,
    resamples: int = 10000,
) -> tuple[float, float, float]:
    """Mean of the paired differences ``scores - baseline`` and its interval.

    The percentile bootstrap over the pairs (Efron and Tibshirani 1993, ch. 13), of all
    resamples where they are no more than ``resamples``. Of one pair there is no
    interval: both ends are nan.

    Args:
        scores (Sequence[float]): One a seed.
        baseline (Sequence[float]): Of the same seeds.
        level (float): Defaults to 0.95.
        resamples (int): Defaults to 10000.

    Returns:
        tuple[float, float, float]: Mean, lower and upper end.

    Raises:
        ValueError: If the two differ in length, or are empty.
    """
    if len(scores) != len(baseline) or not len(scores):
        raise ValueError(
            'paired differences need one score and one baseline a seed, but got '
            f'{len(scores)} and {len(baseline)}'
        )
    differences = np.subtract(scores, baseline)
    mean = float(differences.mean())
    if len(differences) == 1:
        return mean, float('nan'), float('nan')
    size = len(differences)
    if size**size <= resamples:  # all there are
        draws = np.array(list(itertools.product(range(size), repeat=size)))
    else:
        draws = np.random.default_rng(0).integers(size, size=(resamples, size))
    means = differences[draws].mean(1)
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(means, ends, method='inverted_cdf')
    return mean, float(low), float(high)
