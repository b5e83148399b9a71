# Copyright (c) The nl_plugins authors. All rights reserved.
"""The measurements as Markdown, ready for the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def verdict_lines(report: dict) -> list[str]:
    """A line a check: its outcome, what was checked, the figures."""
    return [
        f'{verdict["outcome"]:7} {name}: {verdict["check"]}: {verdict["detail"]}'
        for name, part in report['sections'].items()
        for verdict in part['verdicts']
    ]


def markdown(report: dict) -> str:
    """Every table of a report."""
    lines = ['# Blocks on this device', '']
    lines += [f'* {key}: {value}' for key, value in report['machine'].items()]
    for name, part in report['sections'].items():
        lines += ['', f'## {name}', '', f'{part["seconds"]} s.', '']
        verdicts = ([v['outcome'], v['check'], v['detail']] for v in part['verdicts'])
        lines += table(['outcome', 'check', 'detail'], verdicts)
        for title, rows in part['rows'].items():
            if rows:
                lines += ['', f'### {title}', '', *_TABLES.get(title, _plain)(rows)]
        lines += ['', *(f'* error: {error}' for error in part['errors'])]
    return '\n'.join(lines) + '\n'


def table(heads: list[str], rows: Iterable[list]) -> list[str]:
    """A Markdown table; cells are written short."""
    lines = ['| ' + ' | '.join(heads) + ' |', '|---' * len(heads) + '|']
    lines += ['| ' + ' | '.join(_cell(c) for c in row) + ' |' for row in rows]
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return '–'
    if isinstance(value, float):
        return f'{value:.3g}' if abs(value) < 1e3 else f'{value:.0f}'
    if isinstance(value, dict):
        return ', '.join(f'{key} {_cell(part)}' for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ' '.join(map(_cell, value))
    return str(value).replace('|', '/').replace('\n', ' ')


def _plain(rows: Any) -> list[str]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return [_cell(rows)]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    return table(heads, ([row.get(head) for head in heads] for row in rows))


def _correctness(rows: list[dict]) -> list[str]:
    heads = ['case', 'precision', 'layout', 'auto', 'fast', 'dense']
    return [
        'Relative errors of the result, of the gradient of the input and of the '
        'weights; where one is over its tolerance and more than 3x that of dense.',
        '',
        *table(
            heads,
            (
                [row['case'], row['precision'], row['layout']]
                + [row['errors'][form] for form in heads[3:]]
                for row in rows
                if row['bad']
            ),
        ),
    ]


def _capture(rows: list[dict]) -> list[str]:
    """Only what is not as it should be."""
    return _plain(
        [
            {'case': row['case'], 'check': check, 'found': found}
            for row in rows
            for check, found in row.items()
            if check != 'case' and found is not True
        ]
    )


def _blocks(rows: list[dict]) -> list[str]:
    heads = ['case', 'shape', 'precision', 'way']
    for key in ('forward', 'step'):
        heads += [f'{key}, ms', '/ dense', '/ mmcv']
    heads += ['step, MiB', 'dense', 'mmcv', 'of limit', 'of products']
    heads += ['kernels (dense)', 'attention']

    def of(row: dict, form: str, key: str) -> Any:
        found = row.get(form)
        return found.get(key) if isinstance(found, dict) else None

    def cells(row: dict) -> list:
        line = [row['case'], row['shape'], row['precision'], row['ours']['taken']]
        for key in ('forward', 'step'):
            own = row['ours'][key]
            line.append(own)
            for rival in ('dense', 'mmcv'):
                other = of(row, rival, key)
                line.append(None if other is None else f'{other / own:.2f}x')
        line += [of(row, form, 'step_mib') for form in ('ours', 'dense', 'mmcv')]
        line += [f'{row[key]:.0%}' for key in ('limit_share', 'product_share')]
        counts = [of(row, form, 'step_kernels') for form in ('ours', 'dense')]
        line.append(None if counts[0] is None else '{} ({})'.format(*counts))
        return [*line, [name[:40] for name in row['ours'].get('attention', [])]]

    return [
        'Ratios are the time of dense, and of the module of mmcv, over ours.',
        '',
        *table(heads, map(cells, rows)),
    ]


def _networks(rows: list[dict]) -> list[str]:
    heads = ['config', 'shape', 'precision']
    forms = ('ours', 'without', 'dense')
    heads += [f'{form}, a second' for form in forms] + [f'{f}, MiB' for f in forms]

    def of(row: dict, form: str, key: str) -> Any:
        found = row.get(form)
        return found[key] if isinstance(found, dict) else found

    return table(
        heads,
        (
            [row['config'], 'x'.join(map(str, row['shape'])), row['precision']]
            + [of(row, form, key) for key in ('per_second', 'mib') for form in forms]
            for row in rows
        ),
    )


_TABLES: dict[str, Callable[[Any], list[str]]] = {
    'correctness': _correctness,
    'capture': _capture,
    'compile': _capture,
    'blocks': _blocks,
    'networks': _networks,
}
