# Copyright (c) The nl_plugins authors. All rights reserved.
"""Options of constructors, checked by what their annotations say.

A class decorated with :func:`checked` writes types, choices and ranges once, as the
annotations of its constructor, and gets one sentence for each wrong value::

    @checked
    class Blur:
        def __init__(self, size: Count = 3, pad: Literal['zero', 'edge'] = 'zero'): ...

    Blur(pad='edges')
    # ValueError: Blur: pad must be one of ['zero', 'edge'], but got 'edges'
    # (did you mean 'edge'?)

``bool`` takes True and False alone, ``int`` no bool, ``float`` finite numbers, and a
tuple a list of the same length, because configs know no other.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import operator
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import numpy as np


@dataclass(frozen=True)
class Range:
    """The numbers between ``low`` and ``high``.

    Args:
        low (float): Lower end. Defaults to -inf.
        high (float): Upper end. Defaults to inf.
        ends (str): Whether each end belongs to the range, ``'['`` and ``']'``, or
            not, ``'('`` and ``')'``. Defaults to '[]'.
    """

    low: float = -math.inf
    high: float = math.inf
    ends: str = '[]'

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.ends[0] == '[' else value > self.low
        below = value <= self.high if self.ends[1] == ']' else value < self.high
        return above and below

    def __str__(self) -> str:
        if self.high == math.inf:
            return f'{"at least" if self.ends[0] == "[" else "above"} {self.low}'
        return f'in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}'


@dataclass(frozen=True)
class HasKey:
    """The dicts with this key."""

    key: str

    def __contains__(self, value: dict) -> bool:
        return self.key in value

    def __str__(self) -> str:
        return f'with the key {self.key!r}'


@dataclass(frozen=True)
class Filled:
    """The sequences of one item and more."""

    def __contains__(self, value: Sequence) -> bool:
        return len(value) > 0

    def __str__(self) -> str:
        return '(at least one)'


@dataclass(frozen=True)
class Odd:
    """The odd numbers."""

    def __contains__(self, value: int) -> bool:
        return value % 2 == 1

    def __str__(self) -> str:
        return '(odd)'


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, ends='(]')]
Share = Annotated[float, Range(0, 1)]
Cfg = Annotated[dict, HasKey('type')]

_WORDS = {
    bool: 'True or False',
    int: 'an integer',
    float: 'a finite number',
    str: 'a string',
    dict: 'a dict',
    type(None): 'None',
}


def accepts(annotation: Any, value: Any) -> bool:
    """Whether ``value`` is what ``annotation`` says."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return accepts(args[0], value) and all(value in limit for limit in args[1:])
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin in (Union, types.UnionType):
        return any(accepts(arg, value) for arg in args)
    if origin is tuple and args[-1] is not Ellipsis:
        return (
            _is_sequence(value)
            and len(value) == len(args)
            and all(map(accepts, args, value))
        )
    if origin in (tuple, list, Sequence):
        return _is_sequence(value) and all(accepts(args[0], item) for item in value)
    if annotation is Any:
        return True
    if annotation is bool:
        return type(value) is bool
    if annotation in (int, float):
        kind = numbers.Integral if annotation is int else numbers.Real
        is_number = isinstance(value, kind) and not isinstance(value, (bool, np.bool_))
        return is_number and math.isfinite(value)
    if origin is not None:
        return isinstance(value, origin)
    return not isinstance(annotation, type) or isinstance(value, annotation)


def describe(annotation: Any) -> str:
    """What ``annotation`` accepts, in words."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        if annotation in (Count, Positive):
            return f'a positive {"integer" if args[0] is int else "number"}'
        return ' '.join([describe(args[0]), *map(str, args[1:])])
    if origin is Literal:
        return f'one of {list(args)}' if len(args) > 1 else repr(args[0])
    if origin in (Union, types.UnionType):
        return ' or '.join(map(describe, args))
    if origin is tuple and args[-1] is not Ellipsis:
        return f'a sequence of {len(args)}, each {describe(args[0])}'
    if origin in (tuple, list, Sequence):
        return f'a sequence, each item {describe(args[0])}'
    return _WORDS.get(annotation) or getattr(annotation, '__name__', str(annotation))


def check(owner: str, option: str, value: Any, annotation: Any) -> None:
    """Raise ValueError unless ``value`` is what ``annotation`` says.

    Args:
        owner (str): Name of the class or function whose option it is.
        option (str): Name of the option.
        value: What was given.
        annotation: A type, ``Literal``, ``Annotated`` with :class:`Range` and so on.

    Raises:
        ValueError: One sentence with the owner, the option and what it takes.
    """
    if not accepts(annotation, value):
        raise ValueError(
            f'{owner}: {option} must be {describe(annotation)}, but got '
            f'{value!r}{did_you_mean(value, _choices(annotation))}'
        )


def did_you_mean(name: Any, names: Sequence[str]) -> str:
    """`` (did you mean 'x'?)`` if one of ``names`` is near, otherwise nothing."""
    near = difflib.get_close_matches(name, names, n=1) if type(name) is str else []
    return f' (did you mean {near[0]!r}?)' if near else ''


def plain(annotation: Any) -> Any:
    """An annotation without its limits, as a reader wants it: ``int`` for ``Count``."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if 'Annotated[' not in repr(annotation) or isinstance(annotation, str):
        return annotation
    if origin is Annotated:
        return plain(args[0])
    if origin in (Union, types.UnionType):
        return functools.reduce(operator.or_, map(plain, args))
    return origin[tuple(plain(arg) for arg in args)]


def annotations(init: Any) -> dict[str, Any]:
    """Annotations of the parameters of a constructor, resolved."""
    hints = typing.get_type_hints(init, include_extras=True)
    return {name: hint for name, hint in hints.items() if name != 'return'}


@functools.cache
def parameters(cls: type) -> tuple[dict[str, inspect.Parameter], bool]:
    """What the constructor of ``cls`` takes, with what it passes on to its bases.

    Returns:
        tuple[dict, bool]: Parameters by name, the class's own first, and whether
        there are no others.
    """
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if '__init__' not in vars(base) or base is object:
            continue
        passes_on = False
        for parameter in [*inspect.signature(base.__init__).parameters.values()][1:]:
            if parameter.kind in (
                parameter.POSITIONAL_OR_KEYWORD,
                parameter.KEYWORD_ONLY,
            ):
                found.setdefault(parameter.name, parameter)
            passes_on |= parameter.kind is parameter.VAR_KEYWORD
        if not passes_on:
            return found, True
    return found, False


def checked(cls: type) -> type:
    """Class decorator: the constructor checks its arguments by its annotations.

    Signature and docstring name the options of the bases, too; see :func:`documented`.
    Arguments that ``**kwargs`` pass on are checked by the base that names them if it
    is decorated, too; those of bases that are not ours by the annotations in the class
    attribute ``passed_on``, a dict by name. The arguments of the outermost call are
    kept as ``_given``.

    Raises (the constructor):
        TypeError: If an option does not exist.
        ValueError: If a value is not what its annotation says.
    """
    init = vars(cls).get('__init__')
    if init is None:
        if 'passed_on' not in vars(cls):
            return cls
        init = cls.__init__
    signature = inspect.signature(init)
    resolve = functools.cache(lambda: annotations(init))

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        name = type(self).__name__
        known, complete = parameters(type(self))
        refuse = getattr(type(self), 'refuse_options', None)
        if refuse is not None:  # a class that knows more to say
            refuse(kwargs)
        for option in kwargs if complete else ():
            if option not in known:
                raise TypeError(
                    f'{name} has no option {option!r}'
                    f'{did_you_mean(option, list(known))}, choose from {sorted(known)}'
                )
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f'{name}: {error}') from None
        hints = resolve()
        for option, value in bound.arguments.items():
            variadic = signature.parameters[option].kind in (
                inspect.Parameter.VAR_POSITIONAL,
                inspect.Parameter.VAR_KEYWORD,
            )
            if option in hints and not variadic:
                check(name, option, value, hints[option])
        given = dict(zip(known, args)) | kwargs
        passed_on = {
            option: hint
            for base in reversed(type(self).__mro__)
            for option, hint in vars(base).get('passed_on', {}).items()
        }
        for option in given.keys() & (passed_on.keys() - hints.keys()):
            check(name, option, given[option], passed_on[option])
        self.__dict__.setdefault('_given', given)
        init(self, *args, **kwargs)

    cls.__init__ = __init__
    return documented(cls)


def documented(cls: type) -> type:
    """Class decorator: signature and docstring list the options of the bases, too, and
    the errors that they raise if the class names none of its own."""
    known, complete = parameters(cls)
    # A class may set other values for the options of its bases.
    defaults = vars(cls).get('defaults', {})
    first = next(base for base in cls.__mro__ if '__init__' in vars(base))
    own = inspect.signature(vars(first)['__init__']).parameters
    hints: dict[str, Any] = {}
    for base in cls.__mro__[:-1]:
        try:
            hints = {**annotations(vars(base).get('__init__')), **hints}
        except (NameError, TypeError):
            continue  # names for type checkers alone, or no __init__ of its own
    variadic = [p for p in own.values() if p.kind is inspect.Parameter.VAR_POSITIONAL]
    rest = [p for p in own.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    listed = [
        parameter.replace(
            # By position the constructor takes what it names itself.
            kind=parameter.kind if name in own else inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(name, parameter.default),
            annotation=plain(hints.get(name, parameter.annotation)),
        )
        for name, parameter in known.items()
    ]
    listed += variadic + ([] if complete else rest)
    cls.__signature__ = inspect.Signature(sorted(listed, key=lambda p: p.kind))
    order = list(cls.__signature__.parameters)
    entries: dict[str, str] = {}
    for base in cls.__mro__:
        for name, entry in _entries(base).items():
            if name not in known or name in entries:
                continue
            default = cls.__signature__.parameters[name].default
            theirs = parameters(base)[0].get(name)
            if theirs is not None and default != theirs.default:
                text = f'Defaults to {default!r}.'
                entry = re.sub(r'Defaults\s+to\s.*', text, entry, flags=re.DOTALL)
            entries[name] = entry
    doc = inspect.cleandoc(cls.__doc__ or '')
    # Google's sections in their order, of which "Args:" is replaced or put in.
    head, *sections = re.split(r'\n(?=(?:Args|Returns|Raises|Example):\n)', doc)
    if sections and sections[0].startswith('Args:'):
        sections[:1] = re.split(r'\n(?=\n\S)', sections[0], maxsplit=1)[1:]
    if not any(section.startswith('Raises:') for section in sections):
        docs = (inspect.cleandoc(base.__doc__ or '') for base in cls.__mro__[1:])
        found = (re.search(r'(?:^|\n)(Raises:\n(?:    .*\n?)+)', doc) for doc in docs)
        inherited = next((match[1] for match in found if match), None)
        sections += [inherited] if inherited else []
    if entries:
        args = '\n'.join(['Args:', *(entries[n] for n in order if n in entries)])
        sections = [section.strip('\n') for section in (args, *sections)]
        cls.__doc__ = '\n\n'.join([head.rstrip('\n'), *sections])
    return cls


def _entries(cls: type) -> dict[str, str]:
    """The entries of the docstring's list of arguments, by name."""
    doc = inspect.cleandoc(vars(cls).get('__doc__') or '')
    found = re.search(r'(?:^|\n)Args:\n((?:    .*\n?)+)', doc)
    parts = re.split(r'^(?=    \w)', found[1] if found else '', flags=re.MULTILINE)
    return {part.split()[0].rstrip(':'): part.rstrip() for part in parts if part}


def _choices(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is Literal:
        return [arg for arg in typing.get_args(annotation) if isinstance(arg, str)]
    return [choice for arg in typing.get_args(annotation) for choice in _choices(arg)]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
