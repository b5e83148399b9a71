# Copyright (c) The nl_plugins authors. All rights reserved.
"""Blocks of the non-local family: one paper a file, found by being in this folder."""

from importlib import import_module
from pkgutil import iter_modules

from .base import NonLocalBlock

#: Every block by its class name.
BLOCKS: dict[str, type[NonLocalBlock]] = {}

for _info in iter_modules(__path__):
    _module = import_module(f'{__name__}.{_info.name}')
    for _value in vars(_module).values():
        if (
            isinstance(_value, type)
            and _value.__module__ == _module.__name__
            # Only now: in Python 3.10 an alias such as tuple[int] is a type, too.
            and issubclass(_value, NonLocalBlock)
            and '_abbr_' in vars(_value)
        ):
            BLOCKS[_value.__name__] = _value

globals().update(BLOCKS)
__all__ = ['BLOCKS', 'NonLocalBlock', *BLOCKS]
