# Copyright (c) The nl_plugins authors. All rights reserved.
"""Non-local blocks as graph filters, for mmpretrain, mmseg, mmaction and mmdet.

Importing the package repairs known defects of upstream packages, registers
the blocks and :class:`NonLocalBackbone` in mmengine's root registries and
defers the adapters of the codebases until their registries are asked. Every
public name is an attribute of the package, imported when first used.
"""

import ast
import functools
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from . import compat
from .codebases import CODEBASES, install_command
from .version import __version__ as __version__

# Register into mmengine's root registries; need no codebase.
_SHARED = ('blocks', 'attach', 'analysis', 'engine')
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


def _assigned(path: Path, name: str) -> ast.expr | None:
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name
            for target in node.targets
        ):
            return node.value
    return None


def _block_names(path: Path) -> list[str]:
    """Classes of a file that set ``_abbr_``, by which ``blocks`` finds them, too."""
    return [
        node.name
        for node in ast.parse(path.read_text(encoding='utf-8')).body
        if isinstance(node, ast.ClassDef)
        and any(
            isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == '_abbr_'
            for line in node.body
        )
    ]


@functools.cache
def _public_names(submodule: str) -> tuple[str, ...]:
    """``__all__`` of a submodule, read without importing it, which costs seconds."""
    folder = Path(__file__).parent / submodule
    if submodule == 'blocks':
        files = sorted(folder.glob('*.py'))
        found = [name for file in files for name in _block_names(file)]
        return 'BLOCKS', 'NonLocalBlock', *found
    path = folder / '__init__.py'
    value = _assigned(path, '__all__') if path.is_file() else None
    return () if value is None else tuple(ast.literal_eval(value))


def _owners(name: str) -> list[str]:
    """The submodules that have ``name`` among their public names."""
    return [part for part in (*_SHARED, *_ADAPTERS) if name in _public_names(part)]


def _available() -> list[str]:
    """Public names whose packages are installed and whose owner is clear."""
    parts = list(_SHARED) if compat.is_installed('mmengine') else []
    parts += [
        codebase.extra
        for codebase in CODEBASES.values()
        if parts and compat.is_installed(codebase.package)
    ]
    names = {name for part in parts for name in _public_names(part)}
    return sorted(name for name in names if len(_owners(name)) == 1)


def __getattr__(name: str):
    if name in _SUBMODULES:
        return import_module(f'{__name__}.{name}')
    if name == '__all__':
        return ['__version__', *_available()]
    owners = _owners(name)
    if owners and not compat.is_installed('mmengine'):
        command = install_command('mim')
        raise ImportError(f'{__name__}.{name} needs mmengine: {command}')
    if len(owners) == 1:
        return getattr(import_module(f'{__name__}.{owners[0]}'), name)
    if owners:
        choices = ' or '.join(f'{__name__}.{owner}.{name}' for owner in owners)
        message = f'{name} differs between codebases: use {choices}'
    else:
        from .options import did_you_mean

        near = '' if name[:1] == '_' else did_you_mean(name, __dir__())
        message = f'module {__name__!r} has no attribute {name!r}{near}'
    # `from nl_plugins import X` asks for X first and hides what an AttributeError
    # says; what may be a file of ours, it must go on and find.
    asked = sys._getframe(1).f_code.co_name
    if asked == '_handle_fromlist' and not find_spec(f'{__name__}.{name}'):
        raise ImportError(message, name=__name__, path=__file__)
    raise AttributeError(message, name=name)


def __dir__() -> list[str]:
    dunder = [name for name in globals() if name.startswith('__')]
    # Who goes through all attributes must not accelerate by looking.
    parts = set(_SUBMODULES) - {*_ADAPTERS, 'accelerate'}
    parts |= {
        codebase.extra
        for codebase in CODEBASES.values()
        if compat.is_installed(codebase.package)
    }
    return sorted({*dunder, '__all__', *parts, *_available()})


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
compat.announce_all()
