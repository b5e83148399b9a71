# Copyright (c) The nl_plugins authors. All rights reserved.
"""Names that numpy 2 removed and mmaction and mmpretrain still use."""

import numpy as np

from .repair import Repair


def _in1d(ar1, ar2, **kwargs):
    return np.isin(np.ravel(ar1), ar2, **kwargs)


def _names() -> dict:
    return {
        'Inf': np.inf,
        'NAN': np.nan,
        'in1d': _in1d,
        # np.trapz is np.trapezoid since numpy 2.0.
        'trapz': getattr(np, 'trapezoid', None),
    }


def needed() -> bool:
    return any(not hasattr(np, name) for name in _names())


def apply() -> None:
    for name, value in _names().items():
        if not hasattr(np, name):
            setattr(np, name, value)


REPAIR = Repair(
    name='numpy_names',
    symptom='np.Inf, np.NAN, np.in1d or np.trapz is gone, codebases still use them',
    remedy='the missing names are provided',
    upstream='https://numpy.org/doc/stable/numpy_2_0_migration_guide.html',
    needed=needed,
    apply=apply,
)
