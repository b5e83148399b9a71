# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every mmengine Runner imports distutils, which left Python in 3.12."""

import sys
from importlib import import_module

from .imports import is_installed
from .repair import Repair


def needed() -> bool:
    return (
        sys.version_info >= (3, 12)
        and not is_installed('distutils')
        and is_installed('setuptools')
    )


def apply() -> None:
    # Importing it provides distutils.
    import_module('setuptools')


REPAIR = Repair(
    name='missing_distutils',
    symptom='distutils is gone since Python 3.12, every mmengine Runner imports it',
    remedy="setuptools' copy is used",
    upstream='mmengine/utils/dl_utils/collect_env.py',
    needed=needed,
    apply=apply,
)
