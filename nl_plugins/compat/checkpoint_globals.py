# Copyright (c) The nl_plugins authors. All rights reserved.
"""torch.load refuses mmengine's own checkpoints since torch 2.6.

Its restricted unpickler is right to refuse what it does not know. The few
harmless types that mmengine stores are added to its list; loading stays
restricted.
"""

import numpy as np
import torch

from .imports import is_installed
from .repair import Repair, release

# The second is pickled with its annealing function.
MMENGINE_TYPES = ('HistoryBuffer', 'OneCycleParamScheduler')


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
    ]


def apply(module) -> None:
    own = [vars(module)[name] for name in MMENGINE_TYPES if name in vars(module)]
    torch.serialization.add_safe_globals([*own, *safe_globals()])


REPAIR = Repair(
    name='checkpoint_globals',
    symptom='torch.load refuses the checkpoints of mmengine when resuming or testing',
    remedy='the types they hold join the list of safe globals',
    upstream='https://github.com/open-mmlab/mmengine/issues/1655',
    needed=needed,
    apply=apply,
    modules=(
        'mmengine.logging.history_buffer',
        'mmengine.optim.scheduler.param_scheduler',
    ),
)
