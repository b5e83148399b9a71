# Copyright (c) The nl_plugins authors. All rights reserved.
"""The matrix itself, where it is small; and operators that have one way only."""

from __future__ import annotations

from torch import Tensor

from ..lazy import Map, as_tensor, wants_rows
from ..machine import Machine
from ..plan import MATRIX, Case, Cost, Strategy
from ..precision import at_least_float32, operand
from ..products import mix, product
from .costs import around, pick, products

# Memory stays linear in the number of positions: no more keys than this a query.
MOST_KEYS = 2048
# And no systems of more positions, N³ each.
MOST_SOLVED = 1024


class Matrix(Strategy):
    """Build A (B, N, M), multiply.

    Args:
        forward (float): Passes over the matrix to build and read it.
        step (float): The same with its backward pass.
        calls (tuple[float, float]): Operators started, forward and step.
        pairwise (bool): Whether entries are products of query and key.
    """

    name = MATRIX
    traceable = True

    def __init__(
        self,
        forward: float,
        step: float,
        calls: tuple[float, float] = (4, 12),
        pairwise: bool = True,
    ) -> None:
        self.passes = forward, step
        self.calls = calls
        self.pairwise = pairwise

    def refuses(self, case: Case) -> str | None:
        if case.use == 'solve' and case.queries > MOST_SOLVED:
            return f'a system of more than {MOST_SOLVED} positions costs N³'
        if case.keys > MOST_KEYS:
            return (
                f'with more than {MOST_KEYS} keys the matrix is no longer linear in '
                'the number of positions'
            )
        return None

    def cost(self, case: Case, machine: Machine) -> Cost:
        size = case.pairs * case.itemsize
        live = pick(case, 2, 4)  # matrices that share the cache
        width = case.width if self.pairwise else 0
        build = Cost(
            case.pairs * width * products(case),
            ((live * size, pick(case, *self.passes) / live),),
            pick(case, *self.calls),
        )
        positions = case.batch * (case.queries + case.keys)
        apply = Cost(
            case.pairs * case.depth * products(case),
            (
                (live * size, products(case) / live),
                (positions * case.depth * case.itemsize, products(case)),
            ),
            pick(case, 1, 3),
        )
        times = case.times
        solve = Cost(0)
        if case.use == 'solve':  # complex, by elimination
            solve = Cost(4 * case.pairs * (case.queries + 2 * case.depth))
            times = 0
        return build.and_(apply.times(times), solve, around(case))

    def run(self, affinity, values: Map, weight: Tensor | None, plus: Tensor | None):
        rows = wants_rows(values)
        values = operand(as_tensor(values))
        matrix = affinity._dense()
        if weight is None:
            return product(matrix, values, plus, rows=rows)
        return mix(product(matrix, values, rows=rows), weight, plus, rows)


class Operator(Strategy):
    """An affinity that says in ``_apply(values)`` how it is applied, and no more."""

    name = 'operator'
    traceable = True

    def cost(self, case: Case, machine: Machine) -> Cost:
        return Cost(0)

    def run(self, affinity, values: Map, weight: Tensor | None, plus: Tensor | None):
        out = affinity._apply(at_least_float32(as_tensor(values)))
        return mix(out, weight, plus)


OPERATOR = Operator()
