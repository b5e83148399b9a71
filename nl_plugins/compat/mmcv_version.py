# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmseg 1.2, mmaction 1.2 and mmdet 3.3 refuse mmcv 2.2, with which they work."""

import sys
from contextlib import contextmanager

from .imports import around_import
from .repair import Repair, version_of

_ACCEPTED = '2.1.0'
# The maintained forks have other distribution names and bounds of their own.
# Distribution and the version from which on it is not known to refuse.
_REFUSING = {
    'mmseg': ('mmsegmentation', (1, 3)),
    'mmaction': ('mmaction2', (1, 3)),
    'mmdet': ('mmdet', (3, 4)),
}


def _targets() -> list[str]:
    return [
        package
        for package, (distribution, bound) in _REFUSING.items()
        if (version_of(distribution) or (9,)) < bound
    ]


def needed() -> bool:
    mmcv = version_of('mmcv', 'mmcv-lite', 'onedl-mmcv')
    if mmcv is None or mmcv < (2, 2):
        return False
    # Once imported they have passed or failed already.
    return any(package not in sys.modules for package in _targets())


@contextmanager
def _presenting_accepted_version():
    import mmcv

    version = mmcv.__version__
    mmcv.__version__ = _ACCEPTED
    try:
        yield
    finally:
        mmcv.__version__ = version


def apply() -> None:
    for package in _targets():
        if package not in sys.modules:
            around_import(package, _presenting_accepted_version)


REPAIR = Repair(
    name='mmcv_version',
    symptom='mmseg, mmaction and mmdet assert mmcv < 2.2.0',
    remedy=f'mmcv presents itself as {_ACCEPTED} while they are imported',
    upstream='mmseg/__init__.py, mmaction/__init__.py, mmdet/__init__.py',
    needed=needed,
    apply=apply,
)
