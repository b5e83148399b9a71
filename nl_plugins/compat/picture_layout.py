# Copyright (c) The nl_plugins authors. All rights reserved.
"""OpenCV draws into contiguous arrays alone; mmseg's browse_dataset has a view."""

import numpy as np

from .imports import is_installed
from .repair import Repair, replace


def _contiguous(original):
    def _draw_sem_seg(self, image, *args, **kwargs):
        return original(self, np.ascontiguousarray(image), *args, **kwargs)

    return _draw_sem_seg


def needed() -> bool:
    return is_installed('mmseg')


def apply(module) -> None:
    replace(module.SegLocalVisualizer, '_draw_sem_seg', _contiguous)


REPAIR = Repair(
    name='picture_layout',
    symptom="mmseg's browse_dataset draws into a transposed view, OpenCV refuses",
    remedy='the picture is copied first',
    upstream='mmseg/visualization/local_visualizer.py',
    needed=needed,
    apply=apply,
    modules=('mmseg.visualization.local_visualizer',),
)
