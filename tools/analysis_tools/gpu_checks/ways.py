# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every way of computing an affinity, timed: is what the planner takes the fastest?"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .clock import milliseconds, rates
from .section import (
    HALF,
    Section,
    build,
    cast,
    decisions_of,
    formulated,
    label,
    products,
    sentence,
)
from .timing import FIRST, LOW_RANK, OTHERS, SHAPES, SMALL, SOFTMAX

# B, N, C of query and key, D of the values.
ATTENTIONS = [
    (2, 8192, 256, 256),
    (8, 1568, 512, 512),
    (2, 8192, 64, 256),
    (2, 8192, 512, 512),
    (128, 256, 16, 16),
    (4, 3136, 128, 128),
    (1, 32768, 256, 256),
]
BACKENDS = ('FLASH_ATTENTION', 'EFFICIENT_ATTENTION', 'CUDNN_ATTENTION', 'MATH')
TILES = (22, 23, 24, 25, 26)


def run(section: Section) -> None:
    """Rates of the machine, then blocks, then attention by itself."""
    if section.tile_sweep:
        section.attempt('tile sweep', _sweep, section)
    section.attempt('machine', _machine, section)
    shapes = SMALL if section.quick else SHAPES
    kinds = ('fp32', 'bf16', 'tf32') if section.cuda else ('fp32',)
    rest = [case for case in SOFTMAX + LOW_RANK + OTHERS if case not in FIRST]
    main = [name for name in ('crop', 'cifar', 'clip') if name in shapes]
    plan = [(c, s, k) for s in main for k in kinds for c in FIRST]
    if not section.quick:
        plan += [(c, s, k) for k in kinds for s in main for c in rest]
        others = [name for name in shapes if name not in main]
        plan += [(c, s, k) for s in others for k in kinds for c in FIRST + rest]
    reserve = 0.3 * section.left()
    for (name, options), shape, kind in plan:
        what = f'{label(name, options)} {shape} {kind}'
        if section.left() < reserve:
            section.skipped.append(what)
            continue
        section.attempt(
            what, _block, section, name, options, shape, shapes[shape], kind
        )
    for sizes in [(2, 256, 32, 32)] if section.quick else ATTENTIONS:
        for kind in kinds:
            if section.left() > 3:
                section.attempt(
                    f'attention {sizes} {kind}', _attention, section, sizes, kind
                )
    _judge(section)


def _machine(section: Section) -> None:
    """What the planner knows of the machine, as measured here."""
    found = rates(section.device)
    name = torch.device(section.device).type
    table = {}
    for kind, row in (('fp32', 'float32'), ('tf32', 'tf32'), ('bf16', 'half')):
        if kind in found:
            table[f'{name}/{row}'] = dict(
                multiply_adds=found[kind] / 2 * 1e12,
                cached_bytes=found['cached_copy'] * 1e9,
                moved_bytes=found['copy'] * 1e9,
                call=found['launch'] * 1e-6,
            )
    section.rows['machine'] = table


def _block(
    section: Section, name: str, options: dict, shape_name: str, shape: tuple, kind: str
) -> None:
    device = section.device
    module = build(name, options, shape[1], len(shape) - 2)
    if len(shape) - 2 not in module.ndims:
        return
    module = module.to(device).train()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    cotangent = torch.randn_like(x)

    def forward() -> None:
        with torch.no_grad(), products(kind), cast(kind, device):
            module(x)

    def step() -> None:
        given = x.detach().requires_grad_()
        with products(kind):
            with cast(kind, device):
                out = module(given)
            out.backward(cotangent.to(out.dtype))

    for use, function in (('forward', forward), ('step', step)):
        row: dict[str, Any] = {
            'case': label(name, options),
            'shape': shape_name,
            'precision': kind,
            'use': use,
        }
        section.add('ways', {**row, **_compare(section, function)})


def _compare(section: Section, function) -> dict:
    """What was taken, and milliseconds of each way that an affinity may take."""
    decisions = decisions_of(function)
    taken = sorted({decision.taken for decision in decisions})
    estimates: dict[str, float] = {}
    for decision in decisions:
        for estimate in decision.estimates:
            if estimate.seconds is not None:
                total = estimates.get(estimate.strategy, 0.0)
                estimates[estimate.strategy] = total + estimate.seconds * 1e3
    found: dict[str, Any] = {}
    if len(decisions) > 1:  # one name cannot force each to its own
        found['auto'] = milliseconds(function, section.device, 0.04)
    for name in estimates:
        if name == 'matrix' and _is_huge(decisions):
            found[name] = 'too large'
            continue
        try:
            with formulated(name):
                found[name] = milliseconds(function, section.device, 0.04)
        except Exception as error:
            found[name] = sentence(error)
            gc.collect()
            if section.cuda:
                torch.cuda.empty_cache()
    times = {name: ms for name, ms in found.items() if not isinstance(ms, str)}
    row = {'taken': taken, 'ms': found, 'estimates': estimates}
    own = times.get('auto') if len(decisions) > 1 else times.get(taken[0])
    if own and len(times) > 1:
        row['regret'] = own / min(times.values())
        row['best'] = min(times, key=times.__getitem__)
    return row


def _is_huge(decisions: list) -> bool:
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 2**31
    return any(32 * decision.case.pairs > 0.8 * free for decision in decisions)


def _attention(section: Section, sizes: tuple, kind: str) -> None:
    from nl_plugins import graph

    batch, positions, width, depth = sizes
    row: dict[str, Any] = {'sizes': list(sizes), 'precision': kind}
    tensors = _inputs(section, sizes, kind)

    uses = {
        'softmax': _applied(graph.SoftmaxAffinity),
        'relu': _applied(graph.ReLUAffinity),
    }
    with products(kind):
        for what, function in uses.items():
            for use in ('forward', 'step'):
                run = _bound(function, tensors, use)
                row[f'{what} {use}'] = _compare(section, run)
        for backend in BACKENDS if section.cuda else ('MATH',):
            for use in ('forward', 'step'):
                rows = [tensor.contiguous() for tensor in tensors]
                run = _bound(_fused(backend), rows, use)
                with warnings.catch_warnings():
                    warnings.simplefilter('ignore')
                    try:
                        found: Any = milliseconds(run, section.device, 0.04)
                    except Exception as error:
                        found = sentence(error)[:60]
                        gc.collect()
                row[f'sdpa {backend.split("_")[0].lower()} {use}'] = found
    section.add('attention', row)


def _applied(affinity: type) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda query, key, values: affinity(query, key) @ values


def _inputs(section: Section, sizes: tuple, kind: str) -> list[Tensor]:
    batch, positions, width, depth = sizes
    dtype = HALF.get(kind, torch.float32)
    return [
        # As the products of a block are laid out, channels first.
        (torch.randn(batch, channels, positions, device=section.device) * scale)
        .to(dtype)
        .mT
        for channels, scale in (
            (width, width**-0.25),
            (width, width**-0.25),
            (depth, 1.0),
        )
    ]


def _bound(function, tensors: list[Tensor], use: str):
    """A forward without gradients, or a forward and backward pass."""
    cotangent = torch.randn_like(tensors[2])

    def forward() -> None:
        with torch.no_grad():
            function(*tensors)

    def step() -> None:
        given = [tensor.detach().requires_grad_() for tensor in tensors]
        out = function(*given)
        out.backward(cotangent.to(out.dtype))

    return forward if use == 'forward' else step


def _fused(backend: str):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def attend(query: Tensor, key: Tensor, values: Tensor) -> Tensor:
        heads = [tensor.unsqueeze(1) for tensor in (query, key, values)]
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return F.scaled_dot_product_attention(*heads, scale=1.0).squeeze(1)

    return attend


@contextmanager
def _tile(device: str, elements: int) -> Iterator[None]:
    from nl_plugins.graph import machine

    table, name = machine.MACHINES, torch.device(device).type
    before = dict(table)
    for key in before:
        if key[0] == name:
            table[key] = replace(table[key], tile=elements, samples_tile=elements)
    try:
        yield
    finally:
        table.update(before)


def _sweep(section: Section) -> None:
    """Row tiles of several sizes: the cache of the device decides which is best."""
    from nl_plugins import graph

    ways = {'row_tiles': graph.SoftmaxAffinity, 'relu_tiles': graph.ReLUAffinity}
    kinds = ('fp32', 'tf32', 'bf16') if section.cuda else ('fp32',)
    for sizes in [(2, 256, 32, 32)] if section.quick else ATTENTIONS[:3]:
        for kind in kinds:
            tensors = _inputs(section, sizes, kind)
            for name, affinity in ways.items():
                row: dict[str, Any] = {
                    'sizes': list(sizes),
                    'precision': kind,
                    'way': name,
                }
                for power in TILES:
                    with (
                        _tile(section.device, 2**power),
                        formulated(name),
                        products(kind),
                    ):
                        row[f'2^{power}'] = [
                            milliseconds(
                                _bound(_applied(affinity), tensors, use),
                                section.device,
                                0.04,
                            )
                            for use in ('forward', 'step')
                        ]
                section.add('tiles', row)


def _judge(section: Section) -> None:
    rows = [row for row in section.rows.get('ways', []) if 'regret' in row]
    regrets = sorted(row['regret'] for row in rows)
    section.goal(
        'the planner is within 1.25x of the fastest way',
        [
            (
                f'{row["case"]} {row["shape"]} {row["precision"]} {row["use"]} '
                f'{"+".join(row["taken"])} {row["regret"]:.2f}x of {row["best"]}',
                row['regret'] <= 1.25,
            )
            for row in sorted(rows, key=lambda row: -row['regret'])
        ],
    )
    if regrets:
        section.rows['regret'] = dict(
            median=regrets[len(regrets) // 2], worst=regrets[-1], cases=len(regrets)
        )
