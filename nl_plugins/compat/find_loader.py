# Copyright (c) The nl_plugins authors. All rights reserved.
"""Python 3.14 dropped ``pkgutil.find_loader``, which mmengine and mmcv call."""

import pkgutil
from importlib.util import find_spec

from .repair import Repair


def _find_loader(fullname: str):
    spec = find_spec(fullname)
    return None if spec is None else spec.loader


def needed() -> bool:
    return not hasattr(pkgutil, 'find_loader')


def apply() -> None:
    if not hasattr(pkgutil, 'find_loader'):
        pkgutil.find_loader = _find_loader


REPAIR = Repair(
    name='find_loader',
    symptom='pkgutil.find_loader is gone in Python 3.14, mmengine and mmcv call it',
    remedy='it answers through importlib',
    upstream='mmengine/utils/dl_utils/misc.py, mmcv/utils/ext_loader.py',
    needed=needed,
    apply=apply,
)
