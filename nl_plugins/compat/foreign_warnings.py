# Copyright (c) The nl_plugins authors. All rights reserved.
"""Upstream packages warn their users of their own calls, which no user can change."""

import warnings

from .imports import around_import
from .repair import Repair

# Beginning of the message, and the module that warns.
WARNINGS = (
    ("'pin_memory' argument is set as true but no accelerator", r'torch\.utils\.data'),
    ('``build_loss`` would be deprecated soon', r'mmseg\.models\.builder'),
    ('``MultiScaleDeformableAttention`` has been moved', r'mmcv\.cnn\.bricks'),
    ('Default ``avg_non_ignore`` is False', r'mmseg\.models\.losses'),
)


class _Unheard(warnings.catch_warnings):
    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter('ignore')


def needed() -> bool:
    return True


def apply() -> None:
    # mmengine imports it, and again each time that a base names another package.
    around_import('pkg_resources', _Unheard)
    for message, module in WARNINGS:
        warnings.filterwarnings('ignore', message, module=module)


REPAIR = Repair(
    name='foreign_warnings',
    symptom="upstream packages warn of their own calls, as of pkg_resources'",
    remedy='the warnings that no user can act on are left out',
    upstream='https://github.com/open-mmlab/mmengine/pull/1676',
    needed=needed,
    apply=apply,
)
