# Copyright (c) The nl_plugins authors. All rights reserved.
"""Imports go one way: graph <- blocks <- attach <- the codebases' adapters."""

import ast
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'nl_plugins'

# What each part of the package may see of the others.
ALLOWED = {
    'version': set(),
    'compat': set(),
    'codebases': {'compat'},
    'registry': {'codebases', 'compat'},
    'doctor': {'codebases', 'compat', 'version'},
    'graph': set(),
    'blocks': {'graph'},
    'attach': {'graph', 'blocks'},
    'accelerate': {'compat', 'graph'},
    'analysis': {'graph', 'blocks', 'attach'},
    'engine': {'compat'},
    'classification': {'graph', 'blocks', 'attach', 'compat', 'registry'},
    'segmentation': {'graph', 'blocks', 'attach', 'registry'},
    'recognition': {'graph', 'blocks', 'attach', 'registry'},
    'detection': {'graph', 'blocks', 'attach', 'registry'},
}
CODEBASES = {
    'classification': 'mmpretrain',
    'segmentation': 'mmseg',
    'recognition': 'mmaction',
    'detection': 'mmdet',
}
FILES = sorted(
    path for path in PACKAGE.rglob('*.py') if '.mim' not in path.relative_to(ROOT).parts
)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported(path: Path, nodes=None) -> set[str]:
    """Dotted names that a file imports, relative ones resolved."""
    relative = path.relative_to(ROOT).with_suffix('')
    package = '.'.join(relative.parts[:-1])
    names = set()
    for node in nodes or ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name('.' * node.level + (node.module or ''), package)
            names.update(f'{module}.{alias.name}' for alias in node.names)
    return names


def at_module_level(path: Path) -> set[str]:
    """What is imported with the file itself, not later inside a function."""
    nodes, pending = [], list(ast.parse(path.read_text(encoding='utf-8')).body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        nodes.append(node)
        pending.extend(ast.iter_child_nodes(node))
    return imported(path, nodes)


def test_every_part_has_a_rule():
    parts = {part_of(path) for path in FILES} - {'__init__'}
    assert parts <= set(ALLOWED), f'rules for {parts - set(ALLOWED)} are missing'


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    part = part_of(path)
    if part == '__init__':
        return
    ours = {
        name.split('.')[1]
        for name in imported(path)
        if name.startswith('nl_plugins.') and name != 'nl_plugins.__version__'
    }
    extra = ours - ALLOWED[part] - {part}
    assert not extra, f'{part} must not import {extra}'


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_codebases_never_see_each_other(path):
    part = part_of(path)
    roots = {name.split('.')[0] for name in imported(path)}
    foreign = set(CODEBASES.values()) - {CODEBASES.get(part)}
    assert not roots & foreign


def test_graph_needs_torch_alone():
    roots = set()
    for path in FILES:
        if part_of(path) == 'graph':
            roots |= {name.split('.')[0] for name in imported(path)}
    assert roots - set(sys.stdlib_module_names) <= {'torch', 'nl_plugins'}


@pytest.mark.parametrize('part', ['blocks', 'attach', 'registry', 'codebases'])
def test_the_light_parts_do_not_import_mmcv(part):
    for path in FILES:
        if part_of(path) == part:
            roots = {name.split('.')[0] for name in at_module_level(path)}
            assert 'mmcv' not in roots, path
