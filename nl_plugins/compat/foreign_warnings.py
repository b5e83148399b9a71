# Copyright (c) The nl_plugins authors. All rights reserved.
"""Upstream packages warn their users of their own calls, which no user can change."""

import warnings

from .imports import around_import
from .repair import Repair

# Beginning of the message, and the module that warns.
WARNINGS = (
    ("'pin_memory' argument is set as true but no accelerator", r'torch\.utils\.data'),
    (r'torch\.cuda\.amp\.GradScaler is enabled, but CUDA', r'torch\.cuda\.amp'),
    (r'`torch\.cuda\.amp\.GradScaler\(args\.\.\.\)` is deprecated', r'mmengine\.optim'),
    ('Grad strides do not match bucket view strides', r'torch\.autograd'),
    ('`broadcast_buffers` is deprecated', r'mmengine\.model\.wrappers'),
    ('Setting (OMP|MKL)_NUM_THREADS environment variable', r'mmengine\.utils'),
    ('``MultiScaleDeformableAttention`` has been moved', r'mmcv\.cnn\.bricks'),
    ('``build_loss`` would be deprecated soon', r'mmseg\.models\.builder'),
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
