# Copyright (c) The nl_plugins authors. All rights reserved.
"""moviepy 2 dropped ``moviepy.editor``, which mmaction's visualizer imports."""

import sys
from importlib import import_module
from types import ModuleType

from .repair import Repair, version_of


class _Editor(ModuleType):
    def __getattr__(self, name: str):
        if name.startswith('__'):
            raise AttributeError(name)
        return getattr(import_module('moviepy'), name)


def needed() -> bool:
    version = version_of('moviepy')
    return version is not None and version >= (2,)


def apply() -> None:
    sys.modules.setdefault('moviepy.editor', _Editor('moviepy.editor'))


REPAIR = Repair(
    name='moviepy_editor',
    symptom='moviepy.editor is gone in moviepy 2, mmaction saves no video',
    remedy='moviepy.editor answers with the names of moviepy',
    upstream='https://github.com/Zulko/moviepy/issues/2479',
    needed=needed,
    apply=apply,
)
