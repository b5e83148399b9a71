# Copyright (c) The nl_plugins authors. All rights reserved.
"""The codebases we plug into and the versions of them that work."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from .compat import is_installed
from .compat.repair import release


def install_command(extra: str) -> str:
    """The command that installs an extra of nl_plugins, here."""
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / 'setup.cfg').is_file():
        constraints = checkout / 'requirements' / 'constraints-modern.txt'
        return f'pip install -e "{checkout}[{extra}]" -c {constraints}'
    return f'pip install "nl_plugins[{extra}]"'


@dataclass(frozen=True)
class Codebase:
    """One OpenMMLab package that can be plugged into.

    Attributes:
        package (str): Import name, also its ``default_scope``.
        distribution (str): Name on the package index.
        minimum (str): Lowest version that works.
        extra (str): The extra of nl_plugins that installs it; our package that
            registers into it has the same name.
        fork (str): Name of its maintained fork on the package index; empty:
            ``onedl-`` and the distribution's.
    """

    package: str
    distribution: str
    minimum: str
    extra: str
    fork: str = ''

    @property
    def distributions(self) -> tuple[str, str]:
        """Names under which it may be installed."""
        return self.distribution, self.fork or f'onedl-{self.distribution}'

    @property
    def adapter(self) -> str:
        """Our package that registers into it."""
        return f'nl_plugins.{self.extra}'

    @property
    def remedy(self) -> str:
        """The command that installs it."""
        return install_command(self.extra)


CODEBASES = {
    codebase.package: codebase
    for codebase in (
        Codebase('mmpretrain', 'mmpretrain', '1.0.0', 'classification'),
        Codebase('mmseg', 'mmsegmentation', '1.2.0', 'segmentation'),
        Codebase('mmaction', 'mmaction2', '1.2.0', 'recognition'),
        Codebase('mmdet', 'mmdet', '3.0.0', 'detection', 'onedl-mmdetection'),
    )
}


def require(package: str) -> ModuleType:
    """Import a codebase; the first line of its adapter.

    Args:
        package (str): A key of ``CODEBASES``, such as ``'mmseg'``.

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
    if release(module.__version__) < release(codebase.minimum):
        raise ImportError(
            f'{wanted}, found {module.__version__}: {codebase.remedy} --upgrade'
        )
    return module
