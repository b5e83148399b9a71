# Copyright (c) The nl_plugins authors. All rights reserved.
"""Time and memory of ours, dense and mmcv's module at the shapes of the papers."""

from __future__ import annotations

import copy
import gc
import math
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .clock import kernels, mebibytes, milliseconds, rates
from .section import (
    Section,
    build,
    cast,
    decisions_of,
    draw,
    formulated,
    label,
    memory_format,
    products,
    relative_error,
    sentence,
)

SHAPES = {
    'crop': (2, 512, 64, 128),
    'cifar': (128, 32, 16, 16),
    'clip': (8, 512, 8, 28, 28),
    'full': (1, 512, 128, 256),
    'i3d res3': (4, 512, 16, 28, 28),
    'i3d res4': (4, 1024, 4, 14, 14),
}
SMALL = {'crop': (2, 64, 16, 32), 'cifar': (8, 32, 16, 16)}
#: By family: what the goals of speed are said of.
SOFTMAX = [
    ('NLBlock', {}),
    ('NLBlock', {'mode': 'gaussian'}),
    ('RNLBlock', {}),
    ('DNLBlock', {}),
]
LOW_RANK = [
    ('SNLBlock', {}),
    ('NLBlock', {'mode': 'dot_product'}),
    ('ChebyshevNLBlock', {}),
    ('A2Block', {}),
    ('NSBlock', {}),
    ('CGNLBlock', {}),
]
OTHERS = [
    ('NLBlock', {'mode': 'concatenation'}),
    ('CCBlock', {}),
    ('RNLBlock', {'activation': 'relu'}),
    ('ANLBlock', {}),
    ('CayleyNLBlock', {}),
    ('CayleyNLBlock', {'rational': True}),
    ('ARMANLBlock', {}),
]
FIRST = [SOFTMAX[0], LOW_RANK[0], LOW_RANK[1], OTHERS[0], OTHERS[1]]
#: Times dense that low-rank and softmax blocks are to reach on large maps.
GOALS = {
    'low rank': (LOW_RANK, {'fp32': 5.0, 'bf16': 3.0}),
    'softmax': (SOFTMAX, {'tf32': 1.3, 'bf16': 2.0}),
}
LARGE, SMALL_MAPS = ('crop', 'full'), ('cifar', 'clip', 'i3d res4')


def run(section: Section) -> None:
    """Cases in order of interest, until the time is over."""
    if section.cuda:
        torch.zeros(1, device=section.device)
    section.rows['rates'] = rates(section.device)
    section.save()
    shapes = SMALL if section.quick else SHAPES
    kinds = ('fp32', 'bf16', 'tf32') if section.cuda else ('fp32',)
    everything = [*FIRST, *(c for c in SOFTMAX + LOW_RANK + OTHERS if c not in FIRST)]
    if section.quick:
        everything = everything[:6]
    main = [name for name in ('crop', 'cifar', 'clip') if name in shapes]
    rest = [name for name in shapes if name not in main]
    plan = [(c, s, k) for c in FIRST for s in main for k in kinds]
    plan += [(c, s, k) for s in main for c in everything for k in kinds]
    lasts = [f'{kind}, channels_last' for kind in kinds[:2]]
    plan += [(c, s, k) for s in main[:1] for c in FIRST[:3] for k in lasts]
    plan += [(c, s, k) for s in rest for c in everything for k in kinds]
    done = set()
    for (name, options), shape, kind in plan:
        key = label(name, options), shape, kind
        if key in done or not _takes(name, len(shapes[shape]) - 2):
            continue
        done.add(key)
        section.attempt(
            ' '.join(key), _case, section, name, options, shape, shapes[shape], kind
        )
        gc.collect()
    _judge(section)


def _takes(name: str, ndim: int) -> bool:
    from nl_plugins.blocks import BLOCKS

    return ndim in BLOCKS[name].ndims


def _case(
    section: Section, name: str, options: dict, shape_name: str, shape: tuple, kind: str
) -> None:
    device, ndim = section.device, len(shape) - 2
    module = build(name, options, shape[1], ndim).to(device)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    row: dict[str, Any] = {
        'case': label(name, options),
        'shape': shape_name,
        'precision': kind,
    }
    twins: dict[str, nn.Module] = {'ours': module}
    kind, _, layout = kind.partition(', ')
    if layout:
        x = x.contiguous(memory_format=memory_format(ndim))
        module.to(memory_format=memory_format(ndim))
    else:
        twins['dense'] = module
        if name == 'NLBlock':
            twins['mmcv'] = _of_mmcv(options, shape[1], ndim).to(device)
    for form, twin in twins.items():
        if form != 'ours' and _dense_bytes(module, form, shape) > _memory(section):
            row[form] = 'too large'
            continue
        try:
            if form == 'dense':
                row['difference'] = _difference(section, module, x, kind)
            row[form] = _measure(section, twin, x, kind, form)
        except Exception as error:
            if form == 'ours':
                raise
            row[form] = sentence(error)
            gc.collect()
            if section.cuda:
                torch.cuda.empty_cache()
    _roofline(section, row, module, x, kind)
    section.add('blocks', row)


def _measure(
    section: Section, module: nn.Module, x: Tensor, kind: str, form: str
) -> dict:
    device = section.device
    cotangent = torch.randn_like(x)

    def context() -> AbstractContextManager:
        return formulated('dense' if form == 'dense' else 'auto')

    def forward() -> Tensor:
        with torch.no_grad(), context(), products(kind), cast(kind, device):
            return module(x)

    def step() -> None:
        for parameter in module.parameters():
            parameter.grad = None
        given = x.detach().requires_grad_()
        with context(), products(kind):
            with cast(kind, device):
                out = module(given)
            out.backward(cotangent.to(out.dtype))

    found: dict[str, Any] = {}
    module.eval()
    if form == 'ours':
        found['taken'] = sorted({d.taken for d in decisions_of(forward)})
        found['taken_step'] = sorted({d.taken for d in decisions_of(step)})
    found['forward'] = milliseconds(forward, device)
    found['forward_mib'] = mebibytes(forward, device)
    module.train()
    found['step'] = milliseconds(step, device)
    found['step_mib'] = mebibytes(step, device)
    if section.cuda and kind in ('fp32', 'bf16') and form != 'mmcv':
        try:
            found['forward_kernels'], found['attention'] = kernels(forward)
            found['step_kernels'], more = kernels(step)
            found['attention'] += [n for n in more if n not in found['attention']]
        except Exception as error:  # some machines forbid profiling
            section.errors.append(f'profiler: {sentence(error)}')
    return found


def _difference(section: Section, module: nn.Module, x: Tensor, kind: str) -> float:
    """Between ours and dense, with the statistics of one and the same moment."""
    module.eval()
    with torch.no_grad(), products(kind), cast(kind, section.device):
        ours = module(x)
        with formulated('dense'):
            return relative_error(ours, module(x))


def _of_mmcv(options: dict, channels: int, ndim: int) -> nn.Module:
    from mmcv.cnn.bricks import non_local

    mode = options.get('mode', 'embedded_gaussian')
    module = getattr(non_local, f'NonLocal{ndim}d')(channels, mode=mode, norm_cfg=None)
    module.concatenation = partial(_concatenation, module)
    return draw(module)


def _concatenation(module: nn.Module, theta: Tensor, phi: Tensor) -> Tensor:
    """mmcv's weights (B, N, M) from theta (B, C', N, 1) and phi (B, C', 1, M).

    Its division in place cannot be differentiated by today's torch.
    """
    keys = phi.shape[3]
    pairs = [theta.expand(-1, -1, -1, keys), phi.expand(-1, -1, theta.shape[2], -1)]
    return module.concat_project(torch.cat(pairs, dim=1)).squeeze(1) / keys


def _dense_bytes(module: nn.Module, form: str, shape: tuple) -> int:
    """About what a step with the matrix holds."""
    with torch.no_grad():
        twin = copy.deepcopy(module).to('meta')
        batch, queries, keys = twin.affinity(torch.empty(shape, device='meta')).shape
    if getattr(module, 'rational', False) and queries > 2048:
        return 2**62  # a system of that size takes seconds
    copies = 8
    if form == 'mmcv' and getattr(module, 'mode', '') == 'concatenation':
        copies = 3 * module.inner_channels  # every channel of every pair
    return 4 * batch * queries * keys * copies


def _memory(section: Section) -> int:
    if not section.cuda:
        return 2**30
    return int(0.8 * torch.cuda.mem_get_info()[0])


def _roofline(
    section: Section, row: dict, module: nn.Module, x: Tensor, kind: str
) -> None:
    """The share of the card's own rates: products, and x read and written once."""
    from nl_plugins.analysis.complexity import flop_counter

    with flop_counter() as counter, torch.no_grad(), cast(kind, section.device):
        module.eval()(x)
    flop, found = counter.get_total_flops(), section.rows['rates']
    rate = found.get(kind, found['fp32'])
    products = flop / rate / 1e9
    moved = 2 * x.numel() * x.element_size() / found['copy'] / 1e6
    row['gflop'] = flop / 1e9
    row['product_share'] = products / row['ours']['forward']
    row['limit_share'] = max(products, moved) / row['ours']['forward']


def _ratios(rows: list[dict], rival: str, key: str) -> list[tuple[dict, float]]:
    """(row, rival over ours) where both were measured."""
    return [
        (row, row[rival][key] / max(row['ours'][key], 1e-9))
        for row in rows
        if isinstance(row.get(rival), dict)
    ]


def _judge(section: Section) -> None:
    rows = section.rows.get('blocks', [])
    for family, (cases, targets) in GOALS.items():
        names = {label(*case) for case in cases}
        for kind, target in targets.items():
            some = [
                row
                for row in rows
                if row['case'] in names
                and row['precision'] == kind
                and row['shape'] in LARGE
            ]
            reached = [
                (f'{row["case"]} {row["shape"]} {key} {ratio:.2f}x', ratio >= target)
                for key in ('forward', 'step')
                for row, ratio in _ratios(some, 'dense', key)
            ]
            section.goal(f'{family}: {target:g}x dense in {kind}, large maps', reached)
    some = [row for row in rows if row['shape'] in SMALL_MAPS]
    for rival in ('dense', 'mmcv'):
        reached = [
            (f'{row["case"]} {row["shape"]} {row["precision"]} {ratio:.2f}x', good)
            for key in ('forward', 'step')
            for row, ratio in _ratios(some, rival, key)
            for good in [ratio >= 0.97]
        ]
        section.goal(f'small maps: never below 0.97x of {rival}', reached)
    names = {label(*case) for case in SOFTMAX[:1]}
    section.goal(
        'softmax: 60 % of the rate of matrix products in bf16, large maps',
        [
            (
                f'{row["case"]} {row["shape"]} {row["product_share"]:.0%}',
                row['product_share'] >= 0.6,
            )
            for row in rows
            if row['case'] in names
            and row['precision'] == 'bf16'
            and row['shape'] in LARGE
        ],
    )
    large = [row for row in rows if row['shape'] in LARGE]
    section.goal(
        'memory of a step: 8x lower than dense, large maps',
        [
            (f'{row["case"]} {row["shape"]} {row["precision"]} {ratio:.1f}x', good)
            for row, ratio in _ratios(large, 'dense', 'step_mib')
            for good in [ratio >= 8]
        ],
    )
    differences = [
        (row, row['difference'])
        for row in rows
        if row.get('difference') is not None and row['precision'] == 'fp32'
    ]
    bad = [
        f'{row["case"]} {row["shape"]} {d:.1e}' for row, d in differences if d > 1e-3
    ]
    worst = max((d for _, d in differences), default=math.nan)
    section.verdict(
        'ours equals dense at these shapes (fp32)',
        not bad if differences else None,
        f'{len(differences)} cases, worst {worst:.1e}' + (f'; {bad}' if bad else ''),
    )
