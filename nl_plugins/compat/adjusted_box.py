# Copyright (c) The nl_plugins authors. All rights reserved.
"""matplotlib's ``adjust_bbox`` wants a renderer; mmpretrain's script has none."""

import inspect

from .imports import is_installed
from .repair import Repair, replace


def _with_renderer(original):
    def adjust_bbox(fig, bbox_inches, renderer=None, *args, **kwargs):
        renderer = fig.canvas.get_renderer() if renderer is None else renderer
        return original(fig, bbox_inches, renderer, *args, **kwargs)

    return adjust_bbox


def needed() -> bool:
    return is_installed('matplotlib') and is_installed('mmpretrain')


def apply(module) -> None:
    parameter = inspect.signature(module.adjust_bbox).parameters.get('renderer')
    if parameter is not None and parameter.default is parameter.empty:
        replace(module, 'adjust_bbox', _with_renderer)


REPAIR = Repair(
    name='adjusted_box',
    symptom="matplotlib's adjust_bbox wants a renderer, mmpretrain's browse_dataset "
    'gives none',
    remedy='it is that of the figure',
    upstream='mmpretrain/.mim/tools/visualization/browse_dataset.py',
    needed=needed,
    apply=apply,
    modules=('matplotlib._tight_bbox',),
)
