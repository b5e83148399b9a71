# Copyright (c) The nl_plugins authors. All rights reserved.
"""torch.load refuses mmengine's own checkpoints since torch 2.6.

Its restricted unpickler is right to refuse what it does not know. What mmengine
stores beyond tensors joins its list as stand-ins: each answers for exactly the names
in a checkpoint and hands out nothing through which a file could reach anything else,
because with one attribute of one function, such as ``__globals__``, a file runs code.
"""

import pickle
from importlib import import_module

import numpy as np
import torch

from .imports import is_installed
from .plain_arrays import Array, StandIn, torch_globals
from .repair import Repair, release

BUFFER = 'mmengine.logging.history_buffer'
SCHEDULERS = 'mmengine.optim.scheduler.param_scheduler'
# HistoryBuffer stores its methods, as getattr(HistoryBuffer, name).
STATISTICS = ('current', 'max', 'mean', 'min')
ANNEALINGS = ('_annealing_cos', '_annealing_linear')


class History:
    """Stands for mmengine's ``HistoryBuffer``, and becomes one with its state.

    A buffer is no type of the list, so it takes no second state; the statistics in
    the file are left for those of the installed class.
    """

    def __setstate__(self, state: object) -> None:
        if type(state) is not dict:
            raise pickle.UnpicklingError('the state of a HistoryBuffer is no dict')
        length = state.get('max_length')
        history = {name: state.get(name) for name in ('_log_history', '_count_history')}
        if type(length) is not int or any(
            type(values) is not Array or values.dtype.kind not in 'biuf'
            for values in history.values()
        ):
            raise pickle.UnpicklingError(
                'a HistoryBuffer holds something else than arrays of numbers'
            )
        self.__class__ = import_module(BUFFER).HistoryBuffer
        self.max_length = length
        for name, values in history.items():
            setattr(self, name, np.array(values))
        self._set_default_statistics()


class Annealing:
    """An annealing function of mmengine's ``OneCycleParamScheduler``, by its name.

    It is called and pickled as that function.
    """

    __slots__ = ('_name',)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, start: float, end: float, pct: float) -> float:
        # Only who steps such a schedule imports them, which takes seconds.
        function = getattr(import_module(SCHEDULERS).OneCycleParamScheduler, self._name)
        return function(start, end, pct)

    def __reduce__(self):
        return getattr, (import_module(SCHEDULERS).OneCycleParamScheduler, self._name)


ONE_CYCLE = StandIn(f'{SCHEDULERS}.OneCycleParamScheduler')


def _attribute(owner: object, name: object) -> object:
    """``getattr`` for the pairs in a checkpoint of mmengine."""
    if type(name) is str:
        if owner is History and name in STATISTICS:
            return name
        if owner is ONE_CYCLE and name in ANNEALINGS:
            return Annealing(name)
    found = owner if isinstance(owner, (type, StandIn)) else type(owner)
    shown = name if type(name) is str else type(name).__name__
    raise pickle.UnpicklingError(
        f'getattr({getattr(found, "__name__", found)}, {shown!r}) is not loaded: no '
        'checkpoint of mmengine stores that pair'
    )


GETATTR = StandIn('builtins.getattr', _attribute)


def needed() -> bool:
    return release(torch.__version__) >= (2, 6) and is_installed('mmengine')


def safe_globals() -> list[tuple[object, str]]:
    """What a checkpoint of mmengine names, with what answers for it."""
    return [
        *torch_globals(),
        (History, f'{BUFFER}.HistoryBuffer'),
        (ONE_CYCLE, f'{SCHEDULERS}.OneCycleParamScheduler'),
        (GETATTR, 'builtins.getattr'),
    ]


def apply(module) -> None:
    torch.serialization.add_safe_globals(safe_globals())


REPAIR = Repair(
    name='checkpoint_globals',
    symptom='torch.load refuses the checkpoints of mmengine when resuming or testing',
    remedy='stand-ins for the types they hold join the list of safe globals',
    upstream='https://github.com/open-mmlab/mmengine/issues/1655',
    needed=needed,
    apply=apply,
    modules=(BUFFER,),
)
