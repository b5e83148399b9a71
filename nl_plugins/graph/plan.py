# Copyright (c) The nl_plugins authors. All rights reserved.
"""The one place that decides how something is computed.

An affinity lists strategies. A strategy says of a :class:`Case` whether it refuses it,
and what it would cost; the planner takes the cheapest that does not refuse. Sizes
decide, never the data, free memory or a timer, so a result repeats itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .lazy import Map
from .machine import Machine, machine_of, precision_of
from .precision import is_exported, is_forward_mode, is_traced, nominal


class Case(NamedTuple):
    """What a strategy may know."""

    #: Samples B, query positions N, key positions M.
    batch: int
    queries: int
    keys: int
    #: Channels C of query and key; 0 where entries are no products.
    width: int
    #: Rank of the factors; 0 where there are none.
    rank: int
    #: Channels D of the values, and of the result, with the output weight if any.
    depth: int
    depth_out: int
    #: How often the affinity is applied, one result after the other.
    times: int
    #: 'apply', 'polynomial' (of the affinity) or 'solve' (a system with it).
    use: str
    #: Whether a backward pass will follow.
    grad: bool
    #: Channels of the x that query, key and values are linear maps of, none of them
    #: computed yet; 0 where they are not.
    source: int
    #: Whether an output weight follows.
    weighted: bool
    #: Whether ``torch.export`` captures a graph.
    captured: bool
    #: Sizes of the map, where the affinity knows them.
    grid: tuple[int, ...]
    dtype: torch.dtype
    #: Device class and precision: a row of the table of machines.
    device: str
    precision: str

    @property
    def pairs(self) -> int:
        """B N M."""
        return self.batch * self.queries * self.keys

    @property
    def itemsize(self) -> int:
        return 8 if self.precision == 'float64' else 4


class Cost(NamedTuple):
    """What a computation takes."""

    #: Of matrix products.
    multiply_adds: float
    #: (bytes of a tensor, passes over it) pairs.
    touched: tuple[tuple[float, float], ...] = ()
    #: Operators started.
    calls: float = 0

    def seconds(self, machine: Machine) -> float:
        """The estimate."""
        calls = self.calls * machine.call
        work = self.multiply_adds / machine.multiply_adds
        for size, passes in self.touched:
            fits = size <= machine.cache
            rate = machine.cached_bytes if fits else machine.moved_bytes
            work += size * passes / rate
        return max(calls, work) if machine.overlaps else calls + work

    def and_(self, *others: Cost) -> Cost:
        """This and the others, one after the other."""
        parts = (self, *others)
        return Cost(
            sum(c.multiply_adds for c in parts),
            tuple(pair for c in parts for pair in c.touched),
            sum(c.calls for c in parts),
        )

    def times(self, factor: float) -> Cost:
        """The same, ``factor`` times."""
        touched = tuple((size, passes * factor) for size, passes in self.touched)
        return Cost(self.multiply_adds * factor, touched, self.calls * factor)


class Strategy:
    """A way of computing ``A @ values``.

    A subclass has a ``name`` and defines ``cost`` and ``run``, and ``refuses`` if
    there are cases that it cannot or must not compute.
    """

    name: ClassVar[str]
    #: Plain operators of any size only: what TorchScript may record.
    traceable: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _names[cls.name] = None

    def refuses(self, case: Case) -> str | None:
        """Why not, as the end of a sentence; None where it can."""
        return None

    def cost(self, case: Case, machine: Machine) -> Cost:
        """Of the forward and, with ``case.grad``, the backward pass together."""
        raise NotImplementedError(f'{type(self).__name__} does not define cost()')

    def run(
        self,
        affinity: Any,
        values: Map,
        weight: Tensor | None,
        plus: Tensor | None,
    ) -> Tensor:
        """``(A @ values) @ weightᵀ + plus``, either part optional."""
        raise NotImplementedError(f'{type(self).__name__} does not define run()')


class Estimate(NamedTuple):
    """One row of an explanation: seconds, or the reason of a refusal."""

    strategy: str
    seconds: float | None
    reason: str | None


class Decision(NamedTuple):
    """What was decided for one case, and why."""

    affinity: str
    case: Case
    estimates: tuple[Estimate, ...]
    taken: str
    why: str

    def __str__(self) -> str:
        rows = [f'{self.affinity}: {self.taken} ({self.why})']
        for name, seconds, reason in self.estimates:
            said = f'refused: {reason}' if reason else f'{seconds * 1e3:10.3f} ms'
            mark = '*' if name == self.taken else ' '
            rows.append(f'  {mark} {name:14} {said}')
        return '\n'.join(rows)


#: What :func:`force` takes besides the name of a strategy.
FORMULATIONS = ('auto', 'dense', 'fast')
MATRIX = 'matrix'
_names: dict[str, None] = {}
_forced = 'auto'
_listeners: list = []
_memo: dict = {}


@contextmanager
def force(name: str) -> Iterator[None]:
    """Compute every affinity in one way, for tests and benchmarks.

    Args:
        name (str): ``'dense'`` builds each matrix (of equal rows only one), ``'fast'``
            never does, ``'auto'`` (the default outside) takes the cheapest. The name of
            a strategy is taken wherever an affinity has it; others stay at 'auto'.

    Raises:
        ValueError: If no strategy has the name, or, inside, if it refuses a case.
    """
    if name not in FORMULATIONS and name not in _names:
        raise ValueError(
            f'force takes one of {[*FORMULATIONS, *_names]}, but got {name!r}'
        )
    global _forced
    previous, _forced = _forced, name
    try:
        yield
    finally:
        _forced = previous


@contextmanager
def decisions() -> Iterator[list[tuple[Any, Decision]]]:
    """Collect every decision made inside the context, with its affinity."""
    collected: list = []
    _listeners.append(collected)
    try:
        yield collected
    finally:
        # By identity: two empty lists are equal.
        _listeners[:] = [seen for seen in _listeners if seen is not collected]


def choose(
    affinity: Any,
    values: Map,
    weight: Tensor | None = None,
    times: int = 1,
    use: str = 'apply',
) -> Strategy:
    """The strategy for applying an affinity ``times`` times to such values: the
    cheapest that does not refuse, or the one in force."""
    if is_traced() or is_forward_mode():
        return _plain(affinity)
    case = case_of(affinity, values, weight, times, use)
    if torch.compiler.is_compiling():
        return _decide(affinity.strategies, case)
    key = affinity.strategies, case, _forced
    found = _memo.get(key)
    if found is None:
        if len(_memo) > 4096:
            _memo.clear()
        found = _memo[key] = _decide(affinity.strategies, case)
    if _listeners:
        decision = explain_case(affinity, case)
        for seen in _listeners:
            seen.append((affinity, decision))
    return found


def _plain(affinity: Any) -> Strategy:
    """What TorchScript records and forward-mode derivatives pass: the first strategy of
    plain operators."""
    plain = [strategy for strategy in affinity.strategies if strategy.traceable]
    if is_forward_mode():
        plain = [strategy for strategy in plain if strategy.name != 'fused']
    if _forced == 'dense':
        return next((s for s in plain if s.name == MATRIX), plain[0])
    return plain[0]


def _decide(strategies: tuple[Strategy, ...], case: Case) -> Strategy:
    name = MATRIX if _forced == 'dense' else _forced
    if name not in FORMULATIONS:
        for strategy in strategies:
            if strategy.name == name:
                reason = strategy.refuses(case)
                # The matrix itself can always be had.
                if reason is not None and name != MATRIX:
                    raise ValueError(f'{name} was forced, but refuses: {reason}')
                return strategy
    best, least = strategies[0], math.inf  # each affinity's first always can
    for strategy, (name, seconds, _) in zip(strategies, _estimates(strategies, case)):
        if _forced == 'fast' and name == MATRIX:
            continue
        if seconds is not None and seconds < least:
            best, least = strategy, seconds
    return best


def _estimates(strategies: tuple[Strategy, ...], case: Case) -> Iterator[Estimate]:
    machine = machine_of(case.device, case.precision)
    for strategy in strategies:
        reason = strategy.refuses(case)
        seconds = None
        if reason is None:
            seconds = strategy.cost(case, machine).seconds(machine)
        yield Estimate(strategy.name, seconds, reason)


def explain_case(affinity: Any, case: Case) -> Decision:
    """The decision about a case with every estimate and refusal."""
    estimates = tuple(_estimates(affinity.strategies, case))
    taken = _decide(affinity.strategies, case).name
    if _forced != 'auto':
        why = f'force({_forced!r})'
    elif len(estimates) == 1:
        why = 'the only way'
    else:
        refused = all(e.reason is not None for e in estimates)
        why = 'every way was refused' if refused else 'the cheapest estimate'
    return Decision(repr(affinity), case, estimates, taken, why)


def case_of(
    affinity: Any,
    values: Map,
    weight: Tensor | None = None,
    times: int = 1,
    use: str = 'apply',
) -> Case:
    """The case of an affinity that is applied to values."""
    batch, queries, keys = affinity.shape
    device, depth = affinity.device.type, values.shape[2]
    device = 'cpu' if device == 'meta' else device  # nothing is computed there
    return Case(
        batch=nominal(batch),
        queries=queries,
        keys=keys,
        width=affinity.width,
        rank=affinity.rank,
        depth=depth,
        depth_out=depth if weight is None else weight.shape[0],
        times=times,
        use=use,
        grad=torch.is_grad_enabled(),
        source=affinity.source(values),
        weighted=weight is not None,
        captured=is_exported(),
        grid=affinity.grid,
        dtype=affinity.dtype,
        device=device,
        precision=precision_of(affinity.dtype, device),
    )
