# Copyright (c) The nl_plugins authors. All rights reserved.
"""What a repair is, and what the repairs share."""

import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from .imports import when_imported

OFF = 'switched off'
NOT_NEEDED = 'not needed'
WAITING = 'waiting'
APPLIED = 'applied'

_SAID = 'NL_PLUGINS_ANNOUNCED'
_DOCTOR = 'nl_plugins.doctor'

logger = logging.getLogger('nl_plugins.compat')


@dataclass
class Repair:
    """One defect of an installed upstream package and its remedy.

    Attributes:
        name (str): Name of the file that holds it.
        symptom (str): What fails without it.
        remedy (str): What it changes.
        upstream (str): The upstream issue, or where the defect is.
        needed (Callable): Whether the defect is present; cheap, imports nothing
            heavy.
        apply (Callable): Changes it, once or more often with the same result.
            Takes the module it waited for, or nothing without ``modules``.
        modules (tuple[str]): Modules to wait for; the repair acts on each
            right after its import.
        state (str): ``'switched off'``, ``'not needed'``, ``'waiting'`` (for
            its modules) or ``'applied'``.
    """

    name: str
    symptom: str
    remedy: str
    upstream: str
    needed: Callable[[], bool]
    apply: Callable
    modules: tuple[str, ...] = ()
    state: str = NOT_NEEDED

    def run(self) -> None:
        """Apply the repair where it is needed; a second call does nothing."""
        if self.state in (WAITING, APPLIED) or not self.needed():
            return
        self.state = WAITING
        for module in self.modules:
            when_imported(module, self._on_import)
        if not self.modules:
            self.apply()
            self._done()

    def _on_import(self, module) -> None:
        self.apply(module)
        self._done()

    def _done(self) -> None:
        if self.state != APPLIED:
            self.state = APPLIED
            logger.debug(
                f'{self.name}: {self.symptom}; {self.remedy} ({self.upstream})'
            )


def announce(acted: int, waiting: int) -> None:
    """Say in a line how many repairs there are, once for all processes of a run.

    On standard error, where it spoils no output. The processes that this one starts
    find ``NL_PLUGINS_ANNOUNCED`` in their environment; doctor, which says more, is
    left in peace.
    """
    if not acted + waiting or _SAID in os.environ or _DOCTOR in sys.orig_argv:
        return
    os.environ[_SAID] = '1'
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) != '0':
        return
    message = (
        f'repairs of upstream packages: {acted} acted, {waiting} wait for an import; '
        f'python -m {_DOCTOR} lists them'
    )
    if logger.hasHandlers():
        logger.info(message)
    elif logger.level <= logging.INFO:  # 0 unless somebody set it
        print(f'nl_plugins: {message}', file=sys.stderr)


def version_of(*distributions: str) -> tuple[int, ...] | None:
    """Release numbers of the first of ``distributions`` that is installed."""
    for distribution in distributions:
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        return release(version)
    return None


def release(version: str) -> tuple[int, ...]:
    """``'2.14.1+cpu'`` -> ``(2, 14, 1)``."""
    return tuple(int(n) for n in re.match(r'[\d.]*\d', version).group().split('.'))


def replace(owner, name: str, make: Callable) -> None:
    """Set ``owner.name`` to ``make(original)``, once."""
    original = getattr(owner, name)
    if getattr(original, '_replaced_by_nl_plugins', False):
        return
    replacement = functools.wraps(original)(make(original))
    replacement._replaced_by_nl_plugins = True
    setattr(owner, name, replacement)
