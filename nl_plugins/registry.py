# Copyright (c) The nl_plugins authors. All rights reserved.
"""Our scope in mmengine's registry tree, and how we get into the others.

``type='nl_plugins.RNLBlock'`` makes mmengine import this file, ask the
registries below and then their parents.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry, build_functions

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


def name_owners(public_names: Callable[[str], list[str]]) -> None:
    """Let a look-up of a class of ours in another codebase's config say whose it is.

    Args:
        public_names (Callable): The names of the classes of one of our adapters.
    """
    build = build_functions.build_from_cfg
    if hasattr(build, 'names_owners'):
        return

    @functools.wraps(build)
    def build_from_cfg(cfg, registry, default_args=None):
        try:
            return build(cfg, registry, default_args)
        except KeyError as error:
            name = cfg.get('type') if isinstance(cfg, dict) else None
            if not isinstance(name, str):
                raise
            owners = [
                codebase.package
                for codebase in CODEBASES.values()
                if name in public_names(codebase.extra)
            ]
            sentence = _whose(name, owners, str(error))
            if sentence is None:
                raise
            raise KeyError(sentence) from error

    build_from_cfg.names_owners = True
    build_functions.build_from_cfg = build_from_cfg


def _whose(name: str, owners: list[str], error: str) -> str | None:
    found = re.match(rf"'{re.escape(name)} is not in the (\w+)::", error)
    if not found or not owners or found[1] in owners:
        return None
    if name.endswith('Head'):
        remedy = (
            'NonLocalBackbone and NonLocalNeck put its block into a network of any '
            'codebase'
        )
    else:
        remedy = f"write type='{owners[0]}.{name}' to have it all the same"
    return f'{name} is for {" and ".join(owners)} only, not for {found[1]}: {remedy}'


__all__ = [
    'CODEBASES',
    'HOOKS',
    'MODELS',
    'Codebase',
    'defer',
    'defer_shared',
    'name_owners',
    'require',
]
