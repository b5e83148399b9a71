# Copyright (c) The nl_plugins authors. All rights reserved.
"""Our scope in mmengine's registry tree, and how we get into the others.

``type='nl_plugins.RNLBlock'`` makes mmengine import this file, ask the
registries below and then their parents.
"""

from importlib import import_module
from types import ModuleType

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

from .codebases import CODEBASES, Codebase, require
from .compat import when_imported

MODELS = Registry('model', parent=MMENGINE_MODELS, locations=['nl_plugins'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, locations=['nl_plugins'])


def defer(package: str, adapter: str) -> None:
    """Import ``adapter`` when a registry of ``package`` is first asked.

    Each registry of a codebase lists the modules to import at its first
    look-up; the adapter joins every such list. No codebase is imported here.

    Args:
        package (str): Import name of a codebase.
        adapter (str): Dotted name of our module for it.
    """

    def append(module: ModuleType) -> None:
        for registry in vars(module).values():
            # The module also holds the root registries, the parents of its own.
            if isinstance(registry, Registry) and registry.scope == package:
                _add_location(registry, adapter)

    when_imported(f'{package}.registry', append)


def defer_shared(*modules: str) -> None:
    """Import ``modules`` when networks are first built or looked up.

    They register into mmengine's root registries. Whatever builds a network
    imports ``mmengine.model`` first, which costs about a second; the modules
    follow it, each as soon as the one before it is complete.

    Args:
        modules (str): Dotted names of our modules, in the order of import.
    """
    for awaited, module in zip(('mmengine.model', *modules), modules):
        when_imported(awaited, lambda _, module=module: import_module(module))
        _add_location(MMENGINE_MODELS, module)


def _add_location(registry: Registry, module: str) -> None:
    # The one place that touches private attributes of mmengine's Registry. An
    # empty list may be the constructor's default, which all registries share:
    # codebases declare no location there, and the root gets a list of its own.
    if not registry._locations and registry is not MMENGINE_MODELS:
        return
    if registry._imported:
        import_module(module)
    elif module not in registry._locations:
        registry._locations = [*registry._locations, module]


__all__ = [
    'CODEBASES',
    'HOOKS',
    'MODELS',
    'Codebase',
    'defer',
    'defer_shared',
    'require',
]
