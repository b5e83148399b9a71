# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmengine looks for mmseg and mmaction by the names of their distributions.

A fork, ``onedl-mmsegmentation`` for one, brings the module under another name, and
``_base_ = 'mmseg::...'`` then finds nothing. Asked for the name of the module, mmengine
finds whatever holds it.
"""

from .imports import is_installed
from .repair import Repair, version_of

DISTRIBUTIONS = {'mmseg': 'mmsegmentation', 'mmaction': 'mmaction2'}


def renamed() -> list[str]:
    """Modules that are there without the distribution mmengine knows."""
    return [
        module
        for module, distribution in DISTRIBUTIONS.items()
        if is_installed(module) and version_of(distribution) is None
    ]


def needed() -> bool:
    return bool(renamed())


def apply(module) -> None:
    for name in renamed():
        module.MODULE2PACKAGE[name] = name


REPAIR = Repair(
    name='fork_names',
    symptom="_base_ = 'mmseg::...' or 'mmaction::...' does not find a fork's package",
    remedy='mmengine looks for the module, not for the distribution',
    upstream='mmengine/config/utils.py',
    needed=needed,
    apply=apply,
    modules=('mmengine.config.utils',),
)
