# Copyright (c) The nl_plugins authors. All rights reserved.
"""torch.load refuses mmengine's own checkpoints since torch 2.6.

Its restricted unpickler is right to refuse what it does not know. The few
harmless types that mmengine stores are added to its list; loading stays
restricted.
"""

from importlib import import_module

import numpy as np
import torch

from .imports import is_installed
from .repair import Repair, release

SCHEDULERS = 'mmengine.optim.scheduler.param_scheduler'


class OneCycle:
    """Stands for mmengine's ``OneCycleParamScheduler`` in a checkpoint.

    Its annealing function is pickled as ``getattr(OneCycleParamScheduler, name)``.
    Only a checkpoint that asks for it imports the schedulers, which takes seconds.
    """

    def __getattr__(self, name: str):
        if name not in ('_annealing_cos', '_annealing_linear'):
            raise AttributeError(f'{name} is no annealing of OneCycleParamScheduler')
        return getattr(import_module(SCHEDULERS).OneCycleParamScheduler, name)


def needed() -> bool:
    return release(torch.__version__) >= (2, 6) and is_installed('mmengine')


def safe_globals() -> list:
    """Types and functions in a checkpoint of mmengine, with their pickled names."""
    dtypes = {type(np.dtype(code)) for code in np.typecodes['All']}
    rebuild = {
        '_reconstruct': np.empty(0).__reduce__()[0],
        'scalar': np.float64(0).__reduce__()[0],
    }
    return [
        np.ndarray,
        np.dtype,
        *sorted(dtypes, key=lambda dtype: dtype.__name__),
        # numpy 2 renamed numpy.core; checkpoints of both are read by both.
        *(
            (function, f'numpy.{core}.multiarray.{name}')
            for name, function in rebuild.items()
            for core in ('core', '_core')
        ),
        # The history's methods are pickled as getattr(HistoryBuffer, name).
        # Only what is on the list can be called, so this reads, no more.
        getattr,
        (OneCycle(), f'{SCHEDULERS}.OneCycleParamScheduler'),
    ]


def apply(module) -> None:
    torch.serialization.add_safe_globals([module.HistoryBuffer, *safe_globals()])


REPAIR = Repair(
    name='checkpoint_globals',
    symptom='torch.load refuses the checkpoints of mmengine when resuming or testing',
    remedy='the types they hold join the list of safe globals',
    upstream='https://github.com/open-mmlab/mmengine/issues/1655',
    needed=needed,
    apply=apply,
    modules=('mmengine.logging.history_buffer',),
)
