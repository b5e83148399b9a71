# Copyright (c) The nl_plugins authors. All rights reserved.
"""Our scope in mmengine's registry tree, and the codebases we plug into.

``type='nl_plugins.RNLBlock'`` makes mmengine import this file, ask the
registries below and then their parents.
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry
from mmengine.utils import digit_version

from .compat import is_installed, when_imported

MODELS = Registry('model', parent=MMENGINE_MODELS, locations=['nl_plugins'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, locations=['nl_plugins'])


@dataclass(frozen=True)
class Codebase:
    """One OpenMMLab package that can be plugged into.

    Attributes:
        package (str): Import name, also its ``default_scope``.
        distribution (str): Name on the package index.
        minimum (str): Lowest version that works.
        adapter (str): Our package that registers into it.
        extra (str): The extra of nl_plugins that installs it.
    """

    package: str
    distribution: str
    minimum: str
    adapter: str
    extra: str

    @property
    def remedy(self) -> str:
        """The command that installs it."""
        return f'pip install "nl_plugins[{self.extra}]"'


CODEBASES = {
    codebase.package: codebase
    for codebase in (
        Codebase(
            'mmpretrain',
            'mmpretrain',
            '1.0.0',
            'nl_plugins.classification',
            'classification',
        ),
        Codebase(
            'mmseg',
            'mmsegmentation',
            '1.2.0',
            'nl_plugins.segmentation',
            'segmentation',
        ),
        Codebase(
            'mmaction', 'mmaction2', '1.2.0', 'nl_plugins.recognition', 'recognition'
        ),
    )
}


def require(package: str) -> ModuleType:
    """Import a codebase; the first line of its adapter.

    Args:
        package (str): ``'mmpretrain'``, ``'mmseg'`` or ``'mmaction'``.

    Returns:
        ModuleType: The imported codebase.

    Raises:
        ImportError: Missing, too old or refused by its own version check. The
            message holds what was found, what is wanted and what to type.
    """
    codebase = CODEBASES[package]
    wanted = f'{codebase.adapter} needs {codebase.distribution}>={codebase.minimum}'
    if not is_installed(package):
        raise ImportError(f'{wanted}, which is not installed: {codebase.remedy}')
    try:
        module = import_module(package)
    except (ImportError, AssertionError) as error:  # they assert their versions
        raise ImportError(
            f'{wanted}, but importing {package} failed ({error}): {codebase.remedy}'
        ) from error
    if digit_version(module.__version__) < digit_version(codebase.minimum):
        raise ImportError(
            f'{wanted}, found {module.__version__}: {codebase.remedy} --upgrade'
        )
    return module


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
            if isinstance(registry, Registry):
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
