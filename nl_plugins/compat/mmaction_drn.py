# Copyright (c) The nl_plugins authors. All rights reserved.
"""The wheel of mmaction2 lacks the folder ``models/localizers/drn``."""

import sys
from types import ModuleType

from .imports import folder_of
from .repair import Repair

_PACKAGE = 'mmaction.models.localizers.drn'


class DRN:
    """Stands in for the localizer that the wheel does not contain."""

    def __init__(self, *args, **kwargs) -> None:
        raise ImportError(
            'DRN is missing from the mmaction2 wheel: install mmaction2 from its '
            'source repository to use this localizer'
        )


def needed() -> bool:
    package = folder_of('mmaction')
    if package is None:
        return False
    folder = package / 'models' / 'localizers'
    init = folder / '__init__.py'
    return (
        init.is_file()
        and not (folder / 'drn').exists()
        and '.drn.drn' in init.read_text(encoding='utf-8')
    )


def apply() -> None:
    package, module = ModuleType(_PACKAGE), ModuleType(f'{_PACKAGE}.drn')
    package.__path__ = []
    package.drn = module
    module.DRN = DRN
    for stand_in in (package, module):
        sys.modules.setdefault(stand_in.__name__, stand_in)


REPAIR = Repair(
    name='mmaction_drn',
    symptom='mmaction.models cannot be imported, its localizers.drn is not there',
    remedy='a stand-in DRN explains itself when it is built',
    upstream='https://github.com/open-mmlab/mmaction2/issues/2714',
    needed=needed,
    apply=apply,
)
