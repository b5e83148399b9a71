# Copyright (c) The nl_plugins authors. All rights reserved.
"""How a block gets into a network: after any module, as a plugin, as a neck."""

from .backbone import NonLocalBackbone
from .neck import BaseNonLocalNeck
from .places import list_places
from .sequence import BlockSequence
from .train_only import TrainOnlyHook

__all__ = [
    'BaseNonLocalNeck',
    'BlockSequence',
    'NonLocalBackbone',
    'TrainOnlyHook',
    'list_places',
]
