# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmcv-lite has no compiled operators, yet mmseg and mmdet import ``mmcv.ops``."""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

from .imports import folder_of
from .repair import Repair

_NAME = 'mmcv._ext'


class _Operators(ModuleType):
    """Has every operator: those of ``operators`` work, others explain themselves.

    Neither imports torchvision before an operator is called.
    """

    @staticmethod
    def get_compiler_version() -> str:
        return 'n/a'

    @staticmethod
    def get_compiling_cuda_version() -> str:
        return 'n/a'

    def __getattr__(self, name: str):
        if name.startswith('__'):
            raise AttributeError(name)

        def call(*args, **kwargs):
            ported = import_module(f'{__package__}.operators').OPERATORS
            if name in ported:
                return ported[name](*args, **kwargs)
            raise NotImplementedError(
                f'the operator {name} needs compiled mmcv, but mmcv-lite is '
                'installed: pip uninstall mmcv-lite, then pip install '
                '--no-build-isolation "mmcv>=2.0.0,<2.2.0"'
            )

        return call


def needed() -> bool:
    folder = folder_of('mmcv')
    return (
        folder is not None
        and (folder / 'ops').is_dir()
        and not any(folder.glob('_ext*'))
    )


def apply() -> None:
    operators = _Operators(_NAME)
    # mmcv and mmengine ask for the loader to learn whether mmcv is compiled.
    operators.__spec__ = ModuleSpec(_NAME, loader=None)
    sys.modules.setdefault(_NAME, operators)


REPAIR = Repair(
    name='mmcv_ops',
    symptom='mmcv.ops, mmseg.models and mmdet cannot be imported with mmcv-lite',
    remedy="a stand-in mmcv._ext lets mmcv's Python operators, nms and RoIAlign work",
    upstream='https://github.com/open-mmlab/mmcv/issues/2059',
    needed=needed,
    apply=apply,
)
