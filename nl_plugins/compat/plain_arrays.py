# Copyright (c) The nl_plugins authors. All rights reserved.
"""Arrays of numbers and text from a pickle whose writer is not trusted.

numpy's own functions believe what a pickle hands them: object arrays, dtypes whose
sizes, fields and flags anybody may set, a second state for memory that something else
still views. The stand-ins of :data:`STAND_INS` build the same arrays and refuse the
rest. None of them has an attribute that a pickle could read or set to get further.
"""

import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np


class StandIn:
    """A name in a pickle, and what may be done with it.

    Args:
        name (str): The name that it answers for.
        call (Callable, optional): What calling it does; without it, it is only an
            argument for others.
    """

    __slots__ = ('_call', '_name')

    def __init__(self, name: str, call: Callable | None = None) -> None:
        self._name = name
        self._call = call

    def __call__(self, *args: Any) -> Any:
        if self._call is None:
            raise pickle.UnpicklingError(f'{self._name} must not be called')
        try:
            return self._call(*args)
        except (TypeError, ValueError, OverflowError) as error:
            raise pickle.UnpicklingError(f'{self._name}: {error}') from error

    def __repr__(self) -> str:
        return self._name

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError(f'{self._name} takes no state')

    def __reduce__(self):
        raise pickle.PicklingError(f'{self._name} is a stand-in')


class Kind:
    """Stands for a dtype in a pickle; only booleans, numbers and text have one."""

    __slots__ = ('dtype',)

    def __init__(self, code: str, *flags: bool) -> None:
        if type(code) is not str or not re.fullmatch(r'[biufcSU][1-9]\d{0,8}', code):
            raise pickle.UnpicklingError(
                f'an array of dtype {code!r} is not loaded, only booleans, numbers and '
                'text are'
            )
        self.dtype = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        # Version, byte order, subarray, names, fields, ...: sizes and flags follow
        # from the code, whatever they are said to be.
        if (
            type(state) is not tuple
            or not 5 <= len(state) <= 9
            or state[1] not in ('<', '>', '|', '=')
            or any(part is not None for part in state[2:5])
        ):
            raise pickle.UnpicklingError('a dtype has a state that is not plain')
        self.dtype = self.dtype.newbyteorder(state[1])

    def __reduce__(self):
        return self.dtype.__reduce__()


class Array(np.ndarray):
    """A numpy array that takes a state once, and only one that fits its dtype.

    It is pickled as what it is otherwise, a plain array.
    """

    __slots__ = ()

    def __new__(cls) -> 'Array':
        # Until it has a state it is of void, which no Kind is.
        return super().__new__(cls, 0, 'V1')

    @property
    def is_complete(self) -> bool:
        """Whether it has got its state."""
        return self.dtype.kind != 'V'

    def __setstate__(self, state: object) -> None:
        if self.is_complete:
            # Others may view the memory that a second state would free.
            raise pickle.UnpicklingError('an array takes its state once')
        if type(state) is not tuple or len(state) != 5:
            raise pickle.UnpicklingError('an array has a state that is not plain')
        _, shape, kind, is_fortran, content = state
        content = _bytes(content)
        if (
            type(kind) is not Kind
            or type(shape) is not tuple
            or any(type(size) is not int or size < 0 for size in shape)
            or type(is_fortran) not in (bool, int)
            or math.prod(shape) * kind.dtype.itemsize != len(content)
        ):
            raise pickle.UnpicklingError('an array has a state that does not fit')
        super().__setstate__((1, shape, kind.dtype, bool(is_fortran), content))

    def __reduce_ex__(self, protocol: int):
        return np.asarray(self).__reduce_ex__(protocol)

    def __reduce__(self):
        return np.asarray(self).__reduce__()


def _bytes(content: object) -> bytes:
    # Pickles of Python 2 hold the bytes of an array as text.
    if type(content) is str:
        return content.encode('latin1')
    if type(content) is not bytes:
        raise pickle.UnpicklingError(
            f'an array holds {type(content).__name__} instead of bytes'
        )
    return content


def _reconstruct(owner: object, shape: object = None, code: object = None) -> Array:
    if owner is not NDARRAY:
        raise pickle.UnpicklingError('only plain arrays are loaded')
    return Array()


def _scalar(kind: object, content: object) -> np.generic:
    content = _bytes(content)
    if type(kind) is not Kind or kind.dtype.itemsize != len(content):
        raise pickle.UnpicklingError('a numpy scalar does not fit its dtype')
    return np.frombuffer(content, kind.dtype)[0]


def _encode(text: object, encoding: object = 'latin1') -> bytes:
    # How protocol 2 spells bytes: each character is one.
    if type(text) is not str:
        raise pickle.UnpicklingError('bytes are spelt as text')
    return text.encode('latin1')


NDARRAY = StandIn('numpy.ndarray')
# How protocol 2 spells the bytes of an empty array.
EMPTY = StandIn('builtins.bytes', lambda: b'')

STAND_INS: dict[tuple[str, str], StandIn] = {
    ('numpy', 'ndarray'): NDARRAY,
    ('numpy', 'dtype'): StandIn('numpy.dtype', Kind),
    ('_codecs', 'encode'): StandIn('_codecs.encode', _encode),
    ('builtins', 'bytes'): EMPTY,
    ('__builtin__', 'bytes'): EMPTY,
    # numpy 2 renamed numpy.core; files of both are read beside both.
    **{
        (f'numpy.{core}.multiarray', name): StandIn(f'numpy.{core}.{name}', call)
        for core in ('core', '_core')
        for name, call in (('_reconstruct', _reconstruct), ('scalar', _scalar))
    },
}


class PlainUnpickler(pickle.Unpickler):
    """Plain values and arrays, and what ``allowed`` adds; nothing else is looked up.

    Raises:
        pickle.UnpicklingError: When the file names anything else.
    """

    allowed: dict[tuple[str, str], Any] = STAND_INS

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f'it holds {module}.{name}, which is not loaded because it could run '
                'code'
            ) from None


def torch_globals() -> list[tuple[Any, str]]:
    """The stand-ins as ``torch.serialization.add_safe_globals`` takes them."""
    return [
        *((stand_in, '.'.join(name)) for name, stand_in in STAND_INS.items()),
        # Their instances take a state. torch looks names up that have a dot, so no
        # file can ask for the classes themselves.
        (Array, 'Array'),
        (Kind, 'Kind'),
    ]
