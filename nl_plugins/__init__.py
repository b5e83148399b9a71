# Copyright (c) The nl_plugins authors. All rights reserved.
"""Non-local blocks as graph filters, for mmpretrain, mmseg, mmaction and mmdet.

Importing the package repairs known defects of upstream packages, registers
the blocks and :class:`NonLocalBackbone` in mmengine's root registries and
defers the adapters of the codebases until their registries are asked. Every
public name is an attribute of the package, imported when first used.
"""

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from . import compat
from .codebases import CODEBASES, install_command
from .version import __version__

# Register into mmengine's root registries; need no codebase.
_SHARED = ('blocks', 'attach', 'analysis', 'engine')
# Attributes of the package that are no classes.
_FUNCTIONS = ('explain',)
# Register into their codebase's registries.
_ADAPTERS = tuple(codebase.extra for codebase in CODEBASES.values())
_SUBMODULES = (
    'accelerate',
    'compat',
    'graph',
    'registry',
    *_SHARED,
    *_ADAPTERS,
)


def _public_names(submodule: str) -> list[str]:
    """``__all__`` of a submodule, read without importing it."""
    path = Path(__file__).parent / submodule / '__init__.py'
    if not path.is_file():
        return []
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == '__all__'
            for target in node.targets
        ):
            return ast.literal_eval(node.value)
    return []


def __getattr__(name: str):
    if name in _SUBMODULES:
        return import_module(f'{__name__}.{name}')
    if name[:1].isupper() or name in _FUNCTIONS:
        for module in _SHARED:
            if not compat.is_installed('mmengine'):
                command = install_command('mim')
                raise ImportError(f'{__name__}.{name} needs mmengine: {command}')
            value = getattr(import_module(f'{__name__}.{module}'), name, None)
            if value is not None:
                return value
        owners = [adapter for adapter in _ADAPTERS if name in _public_names(adapter)]
        if len(owners) == 1:
            return getattr(import_module(f'{__name__}.{owners[0]}'), name)
        if owners:
            choices = ' or '.join(f'{__name__}.{owner}.{name}' for owner in owners)
            raise AttributeError(f'{name} differs between codebases: use {choices}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    names = {*globals(), *_SUBMODULES, *_FUNCTIONS}
    for adapter in _ADAPTERS:
        names.update(_public_names(adapter))
    return sorted(names)


def _register() -> None:
    # graph needs torch alone, so mmengine may be missing.
    if not compat.is_installed('mmengine'):
        return
    from .registry import defer, defer_shared, name_owners

    name_owners(_public_names)
    defer_shared(*filter(find_spec, (f'{__name__}.{module}' for module in _SHARED)))
    for codebase in CODEBASES.values():
        if find_spec(codebase.adapter):
            defer(codebase.package, codebase.adapter)


compat.repair_all()
_register()

__all__ = ['__version__']
