# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every block and variant against the matrix in float64, forward and gradients."""

from __future__ import annotations

import copy
import math
from collections import Counter

import torch
from torch import Tensor, nn

from .section import (
    TOLERANCES,
    Section,
    build,
    cast,
    formulated,
    memory_format,
    precisions,
    products,
    relative_error,
    sentence,
    variants,
)

SHAPES = {2: (2, 32, 14, 18), 3: (2, 32, 4, 8, 8)}
SMALL = {2: (2, 16, 6, 8), 3: (2, 16, 2, 4, 6)}
FORMS = ('auto', 'fast', 'dense')


def run(section: Section) -> None:
    """Errors in each precision, layout and formulation; overflow of float16."""
    from nl_plugins.blocks import BLOCKS

    shapes = SMALL if section.quick else SHAPES
    cases = [(*case, ndim) for ndim in shapes for case in variants()]
    cases = [case for case in cases if case[3] in BLOCKS[case[0]].ndims]
    if section.quick:
        cases = cases[::9]
    for name, variant, options, ndim in cases:
        what = f'{name}.{variant} {ndim}D'
        section.attempt(what, _block, section, what, name, options, shapes[ndim])
    _judge(section, len(cases))
    section.save()
    if section.cuda:
        _overflow(section)


def _block(section, what: str, name: str, options: dict, shape: tuple) -> None:
    module = build(name, options, shape[1], len(shape) - 2)
    generator = torch.Generator().manual_seed(1)
    x, cotangent = (torch.randn(shape, generator=generator) for _ in '12')
    exact = _results(
        copy.deepcopy(module).double(), x.double(), cotangent.double(), 'fp32', 'dense'
    )
    module, x = module.to(section.device), x.to(section.device)
    cotangent = cotangent.to(section.device)
    last = x.contiguous(memory_format=memory_format(len(shape) - 2))
    runs = [(name, x) for name in precisions(section)]
    runs += [('fp32', last)] + ([('bf16', last)] if section.cuda else [])
    for kind, given in runs:
        layout = 'channels_last' if given is last else ''
        row = {'case': what, 'precision': kind, 'layout': layout, 'errors': {}}
        for form in FORMS:
            try:
                found = _results(
                    copy.deepcopy(module), given, cotangent, kind, form, section.device
                )
            except Exception as error:
                row['errors'][form] = sentence(error)
                continue
            row['errors'][form] = [
                relative_error(a, b) for a, b in zip(found[:3], exact[:3])
            ]
            if layout and form == 'auto':
                row['keeps_layout'] = found[3].is_contiguous(
                    memory_format=memory_format(len(shape) - 2)
                )
        row['bad'] = [form for form in ('auto', 'fast') if _is_bad(row, form)]
        section.add('correctness', row)


def _results(
    module: nn.Module,
    x: Tensor,
    cotangent: Tensor,
    kind: str,
    form: str,
    device: str = 'cpu',
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Result, gradient of x, those of all parameters as one vector, raw result."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    with formulated(form), products(kind):
        with cast(kind, device):
            out = module(x)
        parameters = list(module.parameters())
        grads = torch.autograd.grad(
            out, [x, *parameters], cotangent.to(out.dtype), allow_unused=True
        )
    flat = [
        (torch.zeros_like(p) if g is None else g).flatten().double()
        for p, g in zip(parameters, grads[1:])
    ]
    return out.detach(), grads[0], torch.cat(flat), out


def _is_bad(row: dict, form: str) -> bool:
    """Over the tolerance, and by more than the matrix in the same precision is."""
    errors, dense = row['errors'][form], row['errors']['dense']
    if isinstance(errors, str):
        return True
    value, gradient = TOLERANCES[row['precision']]
    limits = (value, gradient, gradient)
    if all(error <= limit for error, limit in zip(errors, limits)):
        return False
    if isinstance(dense, str):
        return True
    return any(
        # Not `>`: both may be infinite, and a NaN compares with nothing.
        error > limit and not (error <= 3 * other < math.inf)
        for error, limit, other in zip(errors, limits, dense)
    )


def _judge(section: Section, cases: int) -> None:
    rows = section.rows.get('correctness', [])
    seen = len({row['case'] for row in rows})
    for kind in precisions(section):
        some = [row for row in rows if row['precision'] == kind]
        bad = [f'{row["case"]} {",".join(row["bad"])}' for row in some if row['bad']]
        values = [
            row['errors']['auto']
            for row in some
            if not isinstance(row['errors']['auto'], str)
        ]
        worst = ', '.join(
            f'{max((v[i] for v in values), default=math.nan):.1e}' for i in range(3)
        )
        section.verdict(
            f'correct in {kind}',
            None if not some else not bad,
            f'{len(some) - len(bad)} of {len(some)} runs; worst result, input and '
            f'weight gradient {worst}' + (f'; {bad[:6]}' if bad else ''),
        )
    lost = [row['case'] for row in rows if row.get('keeps_layout') is False]
    section.verdict(
        'channels_last stays',
        not lost if rows else None,
        f'lost by {len(lost)}: {lost[:6]}' if lost else 'every block',
    )
    section.verdict(
        'every block was compared', seen == cases, f'{seen} of {cases} cases'
    )


def _overflow(section: Section) -> None:
    """Inputs of one sign, many positions: what overflows float16 and not float32."""
    shape = (2, 256, 64, 128)
    found: Counter = Counter()
    culprits = []
    x = torch.randn(shape, device=section.device).relu()
    for name, variant, options in variants():

        def finite(kind, module):
            with torch.no_grad(), cast(kind, section.device):
                return bool(module(x).isfinite().all())

        def both(name=name, options=options):
            module = build(name, options, shape[1], 2).to(section.device)
            return finite('fp32', module), finite('fp16', module)

        outcome = section.attempt(f'overflow {name}.{variant}', both)
        found[outcome] += 1
        if outcome == (True, False):
            culprits.append(f'{name}.{variant}')
    section.rows['overflow'] = culprits
    section.verdict(
        'float16 stays finite on relu(randn)',
        None if set(found) <= {None} else not culprits and None not in found,
        f'{found[(True, True)]} variants'
        + (f'; not finite: {culprits}' if culprits else '')
        + (f'; {found[None]} not run' if found[None] else ''),
    )
