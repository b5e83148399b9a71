# Copyright (c) The nl_plugins authors. All rights reserved.
"""What several strategies pay alike."""

from __future__ import annotations

from ..machine import Machine
from ..plan import Case, Cost


def products(case: Case) -> int:
    """A product is one, and two more in its backward pass."""
    return 3 if case.grad else 1


def pick(case: Case, forward: float, step: float) -> float:
    """The figure for a forward pass or for a training step."""
    return step if case.grad else forward


def maps(case: Case) -> Cost:
    """Of query, key and values where they are not computed yet."""
    if not case.source:
        return Cost(0)
    positions, width = case.batch * case.keys, 2 * case.width + case.depth
    size = positions * (case.source + width) * case.itemsize
    work = positions * case.source * width
    return Cost(work * products(case), ((size, products(case)),), pick(case, 3, 12))


def output(case: Case) -> Cost:
    """Of an output weight that follows."""
    if not case.weighted:
        return Cost(0)
    positions = case.batch * case.queries
    size = positions * (case.depth + case.depth_out) * case.itemsize
    work = positions * case.depth * case.depth_out
    return Cost(work * products(case), ((size, products(case)),), pick(case, 1, 4))


def around(case: Case) -> Cost:
    """Of what stands before and after ``A @ values``."""
    return maps(case).and_(output(case))


def cached(size: float, passes: float, machine: Machine) -> tuple[float, float]:
    """Passes over a tile, which stays close to the processor while it is used."""
    near = min(size, machine.cache)
    return near, passes * size / max(near, 1)
