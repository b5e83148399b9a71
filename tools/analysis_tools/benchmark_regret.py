# Copyright (c) The nl_plugins authors. All rights reserved.
"""How far the planner's choice is from the best: ``benchmark.py regret``.

Every strategy of every affinity that takes a case is timed, in turns; the regret of
the case is time(chosen) / time(best). Cases are a grid of positions, batch sizes and
widths, forward pass and training step, of which ``--cases`` are drawn with ``--seed``.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nl_plugins import graph
from nl_plugins.analysis.memory import synchronize
from nl_plugins.graph.lazy import LinearMap
from nl_plugins.graph.plan import case_of, explain_case

POSITIONS = (4, 16, 64, 256, 1024, 4096, 16384)
BATCHES = (1, 8, 64)
WIDTHS = (8, 32, 128, 512)
#: Bytes of query, key and values together above which a case is left out.
LARGEST = 2**30
#: Estimated seconds of the best strategy above which a case is left out.
LONGEST = 3.0


def maps_of_one(x: Tensor) -> tuple:
    width = x.shape[2]
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, width, width, generator=generator).to(x) / width**0.5
    joint: list = []
    query, key, values = (LinearMap(x.mT, w, None, joint) for w in weights[:3])
    return graph.DotAffinity(query, key), values, weights[3]


def grid_of(positions: int) -> tuple[int, int]:
    height = 2 ** (int(math.log2(positions)) // 2)
    return height, positions // height


#: How to build affinity, values and output weight from x (B, N, C).
KINDS: dict[str, Callable[[Tensor], tuple]] = {
    'softmax': lambda x: (graph.SoftmaxAffinity(x, x * 1), x, None),
    'softmax, query is key': lambda x: (graph.SoftmaxAffinity(x, x), x, None),
    'relu': lambda x: (graph.ReLUAffinity(x, x * 1), x, None),
    'dot product': lambda x: (graph.DotAffinity(x, x * 1), x, x[0, : x.shape[2]]),
    'dot product of maps': maps_of_one,
    'symmetric': lambda x: (graph.SymmetricAffinity(x.abs(), x.relu() + 1e-3), x, None),
    'concatenation': lambda x: (graph.ConcatAffinity(x[..., 0], x[..., 1]), x, None),
    'criss-cross': lambda x: (
        graph.CrissCrossAffinity(x, x * 1, grid_of(x.shape[1])),
        x,
        None,
    ),
}


@dataclass
class RegretRow:
    """One case: the seconds of every strategy that takes it, and the chosen one."""

    kind: str
    batch: int
    positions: int
    width: int
    step: bool
    taken: str
    seconds: dict[str, float]
    estimates: dict[str, float]

    @property
    def regret(self) -> float:
        return self.seconds[self.taken] / min(self.seconds.values())


def cases(count: int | None, seed: int) -> Iterator[tuple]:
    """(kind, batch, positions, width, whether a step) of the grid, shuffled."""
    grid = list(itertools.product(KINDS, BATCHES, POSITIONS, WIDTHS, (False, True)))
    random.Random(seed).shuffle(grid)
    found = 0
    for case in grid:
        _, batch, positions, width, _ = case
        if batch * positions * width * 12 > LARGEST:
            continue
        if 'dot product' == case[0] and positions < width:
            continue  # its output weight is a slice of x
        yield case
        found += 1
        if found == count:
            return


def measure(case: tuple, seconds: float, device: str) -> RegretRow | None:
    """None where even the best strategy would take long."""
    kind, batch, positions, width, step = case
    torch.manual_seed(0)
    # Channel-first in memory, as feature maps are; of no great logits.
    x = torch.randn(batch, width, positions, device=device).mT * width**-0.25
    x.requires_grad_(step)

    def run(name: str) -> None:
        with graph.force(name), torch.set_grad_enabled(step):
            affinity, values, weight = KINDS[kind](x)
            out = affinity.apply(values, weight)
            if step:
                x.grad = None
                out.backward(out.detach())

    with torch.set_grad_enabled(step):
        affinity, values, weight = KINDS[kind](x)
        decision = explain_case(affinity, case_of(affinity, values, weight))
    estimates = {e.strategy: e.seconds for e in decision.estimates if e.reason is None}
    if min(estimates.values()) > LONGEST:
        return None
    # What the estimate puts far behind gets one turn, to show that it is.
    best = {name: math.inf for name in estimates}
    spent = dict.fromkeys(estimates, 0.0)
    for turn in range(2000):
        for name in estimates:
            least = min(best.values())
            # Two turns warm up and show what is far behind; the chosen one never is.
            behind = name != decision.taken and best[name] > 4 * least
            if turn > 1 and (spent[name] > seconds or behind):
                continue
            synchronize(device)
            start = time.perf_counter()
            run(name)
            synchronize(device)
            taken = time.perf_counter() - start
            best[name] = min(best[name], taken)
            spent[name] += taken
        if all(v > seconds for n, v in spent.items() if best[n] < 4 * least):
            break
    return RegretRow(
        kind, batch, positions, width, step, decision.taken, best, estimates
    )


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def table(rows: list[RegretRow]) -> str:
    """Regret by kind, and the worst cases, in Markdown."""
    lines = [
        '| affinity | cases | mean | 95th percentile | largest |',
        '|---' * 5 + '|',
    ]
    for kind in [*KINDS, 'all']:
        of_kind = [row.regret for row in rows if kind in ('all', row.kind)]
        if of_kind:
            mean = sum(of_kind) / len(of_kind)
            lines.append(
                f'| {kind} | {len(of_kind)} | {mean:.3f} | '
                f'{quantile(of_kind, 0.95):.2f} | {max(of_kind):.2f} |'
            )
    lines += ['', '| worst cases | taken, ms | best, ms | regret |', '|---' * 4 + '|']
    for row in sorted(rows, key=lambda row: -row.regret)[:12]:
        best = min(row.seconds, key=row.seconds.get)
        mode = 'step' if row.step else 'forward'
        lines.append(
            f'| {row.kind}, {row.batch} x {row.positions} x {row.width}, {mode} | '
            f'{row.taken} {row.seconds[row.taken] * 1e3:.3g} | '
            f'{best} {row.seconds[best] * 1e3:.3g} | {row.regret:.2f} |'
        )
    return '\n'.join(lines)


def rows(args: argparse.Namespace) -> Iterator[RegretRow]:
    """The rows of the drawn cases, one by one."""
    for case in cases(args.cases, args.seed):
        row = measure(case, args.seconds, args.device)
        if row is not None:
            yield row
