# Copyright (c) The nl_plugins authors. All rights reserved.
"""Act when a module is imported, without importing it now.

``import nl_plugins`` must stay light, yet has to reach into modules of other
packages that cost seconds. :func:`when_imported` waits for them.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

Action = Callable[[ModuleType], None]


def is_installed(package: str) -> bool:
    """Whether ``package`` can be found; a top-level one is not imported for it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        # A parent that is missing or fails, or a module without __spec__.
        return sys.modules.get(package) is not None


def folder_of(package: str) -> Path | None:
    """Folder of an installed top-level package, which is not imported for it."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


class _Watcher(MetaPathFinder):
    """Finds nothing itself; adds the waiting actions to what others find."""

    def __init__(self) -> None:
        self.around: dict[str, list[Callable[[], AbstractContextManager]]] = {}
        self.after: dict[str, list[Action]] = {}
        self._searching: set[str] = set()

    def find_spec(self, fullname, path=None, target=None):
        if fullname in self._searching or not (
            fullname in self.around or fullname in self.after
        ):
            return None
        self._searching.add(fullname)
        try:
            spec = find_spec(fullname)
        finally:
            self._searching.discard(fullname)
        execute = getattr(getattr(spec, 'loader', None), 'exec_module', None)
        # A reload gets the spec of the first import, which is watched already.
        if execute is None or hasattr(execute, 'watched'):
            return spec

        def exec_module(module: ModuleType) -> None:
            with ExitStack() as stack:
                for context in self.around.get(fullname, ()):
                    stack.enter_context(context())
                execute(module)
            for action in self.after.get(fullname, ()):
                action(module)

        exec_module.watched = True
        spec.loader.exec_module = exec_module
        return spec


_WATCHER = _Watcher()


def _watch() -> None:
    if _WATCHER not in sys.meta_path:
        sys.meta_path.insert(0, _WATCHER)


def when_imported(module: str, action: Action) -> None:
    """Call ``action(module)`` right after ``module`` is executed.

    At once when it is imported already; otherwise at its first import, and
    again should it be reloaded. An action must therefore be idempotent.

    Args:
        module (str): Dotted name.
        action (Callable): Takes the module object.
    """
    _watch()
    _WATCHER.after.setdefault(module, []).append(action)
    loaded = sys.modules.get(module)
    if loaded is not None and not _initialising(loaded):
        action(loaded)


def around_import(module: str, context: Callable[[], AbstractContextManager]) -> None:
    """Execute ``module`` inside ``context()``, whether it succeeds or not.

    Args:
        module (str): Dotted name of a module that is not imported yet.
        context (Callable): Makes a context manager.
    """
    _watch()
    _WATCHER.around.setdefault(module, []).append(context)


def _initialising(module: ModuleType) -> bool:
    return getattr(getattr(module, '__spec__', None), '_initializing', False)
