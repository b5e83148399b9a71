# Copyright (c) The nl_plugins authors. All rights reserved.
"""``torch.compile(fullgraph=True)``: every variant is one graph; inductor of some."""

from __future__ import annotations

import logging

import torch

from nl_plugins.analysis.memory import synchronize

from .capture import Step, close, judge
from .section import Section, relative_error, sentence, variants

CHECK = 'compile(fullgraph=True), forward and backward'


def run(section: Section) -> None:
    """Inductor of a few blocks, every variant as a graph, inductor of the others."""
    from nl_plugins.blocks import BLOCKS

    logging.getLogger('torch._dynamo').setLevel(logging.ERROR)
    first = ['SNLBlock', 'NLBlock', 'CCBlock']
    if section.cuda:  # on a CPU it needs a compiler and minutes
        _inductor(section, first, 0.4 * section.left())
    rows = []
    for name, variant, options in variants()[:: 8 if section.quick else 1]:
        row = section.add('compile', {'case': f'{name}.{variant}'})
        rows.append(row)
        if section.left() < 2:
            continue
        try:
            row[CHECK] = _is_one_graph(Step(section, name, options))
        except Exception as error:
            row[CHECK] = sentence(error)
    judge(section, CHECK, rows)
    if section.cuda:
        _inductor(section, [name for name in BLOCKS if name not in first], 12)
    found = section.rows.get('inductor', [])
    bad = [
        f'{row["case"]} {row["error"]}'
        for row in found
        if row['error'] is None or not row['error'] < 1e-3
    ]
    section.verdict(
        'compiled by inductor',
        not bad if found else None,
        f'{len(found) - len(bad)} of {len(found)} blocks' + (f'; {bad}' if bad else ''),
    )


def _is_one_graph(step: Step) -> bool:
    torch._dynamo.reset()
    compiled = torch.compile(step.module, fullgraph=True, backend='aot_eager')
    return close(step(compiled), step())


def _inductor(section: Section, names: list[str], reserve: float) -> None:
    """Compile the defaults of blocks until only ``reserve`` seconds are left."""
    for name in names:
        if section.left() < reserve:
            section.skipped.append(f'inductor {name}')
            continue

        def error(name=name) -> float:
            torch._dynamo.reset()
            step = Step(section, name, {})
            found = step(torch.compile(step.module, fullgraph=True))
            synchronize(section.device)
            return max(map(relative_error, found, step()))

        found = section.attempt(f'inductor {name}', error)
        section.add('inductor', {'case': name, 'error': found})
