# Copyright (c) The nl_plugins authors. All rights reserved.
"""What a user sees who types: names, near names, options, and what editors know."""

import ast
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip('mmengine')

import nl_plugins
from nl_plugins import compat
from nl_plugins.blocks import BLOCKS, NonLocalBlock
from nl_plugins.codebases import CODEBASES
from nl_plugins.options import annotations, plain

FOLDER = Path(nl_plugins.__file__).parent
PARTS = [*nl_plugins._SHARED, *(codebase.extra for codebase in CODEBASES.values())]


def module_of(part: str):
    for codebase in CODEBASES.values():
        if codebase.extra == part:
            pytest.importorskip(codebase.package)
    return import_module(f'nl_plugins.{part}')


@pytest.mark.parametrize('part', PARTS)
def test_names_are_known_without_an_import(part):
    module = module_of(part)
    assert set(nl_plugins._public_names(part)) == set(module.__all__)
    for name in module.__all__:
        if nl_plugins._owners(name) == [part]:
            assert getattr(nl_plugins, name) is getattr(module, name)
            assert {name} <= set(dir(nl_plugins)) & set(nl_plugins.__all__)


def test_everything_that_is_listed_is_there():
    listed = {*dir(nl_plugins), *nl_plugins.__all__}
    assert {'SNLBlock', 'NLBlock', 'NonLocalBackbone', 'explain', 'graph'} <= listed
    assert 'NonLocalNeck' not in listed  # four have one
    assert not any(re.match('_[^_]', name) for name in listed)
    for name in listed:
        assert hasattr(nl_plugins, name), name
    namespace = {}
    exec('from nl_plugins import *', namespace)
    assert set(nl_plugins.__all__) <= set(namespace)


def test_what_is_not_installed_is_not_listed(monkeypatch):
    installed = compat.is_installed
    monkeypatch.setattr(
        compat, 'is_installed', lambda name: name != 'mmseg' and installed(name)
    )
    assert not {'SNLHead', 'segmentation'} & {*dir(nl_plugins), *nl_plugins.__all__}


LOOKING = """
import sys, nl_plugins
dir(nl_plugins), nl_plugins.__all__
for name in ('mmengine.model', 'mmcv', 'nl_plugins.blocks', 'nl_plugins.accelerate'):
    assert name not in sys.modules, name
"""


def test_looking_imports_nothing():
    subprocess.run([sys.executable, '-c', LOOKING], cwd=FOLDER.parent, check=True)


@pytest.mark.parametrize(
    'wrong, right',
    [('SNLBlok', 'SNLBlock'), ('NonlocalBackbone', 'NonLocalBackbone')]
    + [('explian', 'explain'), ('clasification', 'classification')],
)
def test_a_near_name_is_suggested(wrong, right):
    said = re.escape(f"no attribute '{wrong}' (did you mean '{right}'?)")
    with pytest.raises(AttributeError, match=said):
        getattr(nl_plugins, wrong)
    with pytest.raises(ImportError, match=said):
        exec(f'from nl_plugins import {wrong}')


def test_a_name_of_several_codebases_says_which():
    said = 'segmentation.NonLocalNeck or nl_plugins.recognition.NonLocalNeck'
    with pytest.raises(AttributeError, match=said):
        _ = nl_plugins.NonLocalNeck
    with pytest.raises(ImportError, match=said):
        exec('from nl_plugins import NonLocalNeck')
    assert not hasattr(nl_plugins, 'NonLocalNeck')


def test_files_of_the_package_are_imported_as_ever():
    from nl_plugins import doctor, options

    assert inspect.ismodule(doctor) and inspect.ismodule(options)


def documented(cls: type) -> set[str]:
    doc = inspect.getdoc(cls) or ''
    section = re.search(r'(?:^|\n)Args:\n((?:    .*\n?|\n)+)', doc)
    return set(re.findall(r'^    (\w+)(?: \(|:)', section[1] if section else '', re.M))


def configurable(part: str) -> list[type]:
    values = [getattr(module_of(part), name) for name in module_of(part).__all__]
    return [value for value in values if isinstance(value, type)]


@pytest.mark.parametrize('part', PARTS)
def test_signature_and_help_list_every_option(part):
    """Of blocks, heads, necks, backbones, data sets, transforms and hooks."""
    for cls in configurable(part):
        if part == 'analysis' and not cls.__name__.endswith('Hook'):
            continue  # results, which nobody configures
        parameters = inspect.signature(cls).parameters
        first = next(base for base in cls.__mro__ if '__init__' in vars(base))
        if not first.__module__.startswith('nl_plugins'):
            continue  # all its options are upstream's
        own = inspect.signature(vars(first)['__init__']).parameters
        names = {
            name
            for name, parameter in own.items()
            if parameter.kind
            in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        } - {'self'}
        if issubclass(cls, NonLocalBlock):
            names = set(parameters)
            assert names == {'in_channels', *cls.options()}
        assert names <= set(parameters), cls
        assert names <= documented(cls), (cls, names - documented(cls))
        text = str(inspect.signature(cls))
        assert 'Annotated[' not in text and 'Range(' not in text, cls


def test_heads_and_networks_list_the_options_of_upstream():
    pytest.importorskip('mmseg')
    pytest.importorskip('mmaction')
    head = inspect.signature(nl_plugins.NonLocalHead).parameters
    assert {'block', 'num_classes', 'align_corners'} <= set(head)
    assert {'num_classes', 'align_corners'} <= documented(nl_plugins.NonLocalHead)
    network = inspect.signature(nl_plugins.NLResNet3d).parameters
    assert network['frozen_stages'].default == -1
    assert network['depth'].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert network['frozen_stages'].kind is inspect.Parameter.KEYWORD_ONLY


def test_a_block_in_a_network_is_one_line_with_kind_channels_and_options():
    import torch.nn as nn

    for name, block in BLOCKS.items():
        given = {'ndim': 3} if 3 in block.ndims else {}
        net = nn.Sequential(block(64, reduction=4, **given))
        (line,) = [line for line in repr(net).splitlines() if '(0)' in line]
        assert line.strip().startswith(f'(0): {name}(64, reduction=4')
        assert len(repr(net).splitlines()) == 3


def assigned_names(stub: ast.Module) -> set[str]:
    (names,) = (
        ast.literal_eval(node.value)
        for node in stub.body
        if isinstance(node, ast.Assign) and node.targets[0].id == '__all__'
    )
    return set(names)


def test_the_stub_of_the_package_has_its_public_names():
    stub = ast.parse((FOLDER / '__init__.pyi').read_text(encoding='utf-8'))
    clear = {
        name
        for part in PARTS
        for name in nl_plugins._public_names(part)
        if nl_plugins._owners(name) == [part]
    }
    assert assigned_names(stub) == {'__version__', *clear}
    imported = {
        alias.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(imported) == {'__version__', *clear, *nl_plugins._SUBMODULES}
    for name in clear:
        assert nl_plugins._owners(name) == [imported[name]]


def test_the_stub_of_the_blocks_has_their_options():
    path = FOLDER / 'blocks' / '__init__.pyi'
    stub = ast.parse(path.read_text(encoding='utf-8'))
    assert assigned_names(stub) == {'BLOCKS', 'NonLocalBlock', *BLOCKS}
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    assert set(classes) == set(BLOCKS)
    for name, block in BLOCKS.items():
        assert classes[name].bases[0].id == block.__mro__[1].__name__
        given = classes[name].body[0].args
        defaults = {
            argument.arg: ast.literal_eval(default)
            for argument, default in zip(given.kwonlyargs, given.kw_defaults)
        }
        parameters = {**inspect.signature(block).parameters}
        assert [argument.arg for argument in given.args] == ['self', 'in_channels']
        del parameters['in_channels']
        assert defaults == {key: each.default for key, each in parameters.items()}
        hints = annotations(NonLocalBlock.__init__)
        (ndim,) = (a for a in given.kwonlyargs if a.arg == 'reduction')
        assert ast.unparse(ndim.annotation) == plain(hints['reduction']).__name__
