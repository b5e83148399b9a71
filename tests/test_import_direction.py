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
    'files': set(),
    'compat': {'files'},
    'command': set(),
    'options': set(),
    'codebases': {'compat'},
    'registry': {'_public_names', 'codebases', 'compat'},
    'run': {'options', 'codebases', 'compat'},
    'doctor': {'codebases', 'compat', 'version'},
    'graph': set(),
    'blocks': {'options', 'graph'},
    'attach': {'options', 'graph', 'blocks'},
    'accelerate': {'options', 'compat', 'graph'},
    'analysis': {'options', 'graph', 'blocks', 'attach'},
    'engine': {'options', 'compat', 'files'},
    'classification': {'options', 'graph', 'blocks', 'attach', 'compat', 'registry'},
    'segmentation': {'options', 'graph', 'blocks', 'attach', 'registry', 'files'},
    'recognition': {
        'options',
        'graph',
        'blocks',
        'attach',
        'compat',
        'registry',
        'files',
    },
    'detection': {'options', 'graph', 'blocks', 'attach', 'registry'},
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


def test_the_graph_core_imports_in_no_circle():
    files = {
        '.'.join(path.relative_to(ROOT).with_suffix('').parts): path
        for path in (PACKAGE / 'graph').rglob('*.py')
    }
    seen = {
        name: {
            other
            for other in files
            for found in imported(path)  # inside functions, too
            if other != name and (found == other or found.startswith(f'{other}.'))
        }
        for name, path in files.items()
    }
    while seen:
        free = [name for name, others in seen.items() if not others & set(seen)]
        assert free, f'a circle among {sorted(seen)}'
        for name in free:
            del seen[name]


def test_only_the_planner_decides():
    """Strategies declare, nobody else asks what they cost or refuse."""
    for path in FILES:
        if part_of(path) not in ('graph', 'blocks', 'accelerate'):
            continue
        asked = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ('refuses', 'cost', 'seconds')
            and not (
                isinstance(node.func.value, ast.Call)
                and getattr(node.func.value.func, 'id', '') == 'super'
            )
        }
        assert not asked or path.name == 'plan.py', f'{path.name} asks for {asked}'


def test_blocks_ask_for_no_devices_gradients_or_formulations():
    """Their files name none of what a choice of the computation would need."""
    words = {'force', 'forced', 'choose', 'plan', 'numel', 'is_cuda', 'device'}
    words |= {'is_grad_enabled', 'requires_grad', 'may_learn'}
    for path in FILES:
        if part_of(path) == 'blocks':
            tree = ast.parse(path.read_text(encoding='utf-8'))
            names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
            names |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
            assert not names & words, path.name
