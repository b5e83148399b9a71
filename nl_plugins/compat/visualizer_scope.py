# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmpretrain's browse_dataset makes its visualizer of a config's keys, by hand."""

from .imports import is_installed
from .repair import Repair, replace


def _without_scope(original):
    def __init__(self, *args, _scope_=None, **kwargs):
        original(self, *args, **kwargs)

    return __init__


def needed() -> bool:
    return is_installed('mmpretrain')


def apply(module) -> None:
    replace(module.UniversalVisualizer, '__init__', _without_scope)


REPAIR = Repair(
    name='visualizer_scope',
    symptom="mmpretrain's browse_dataset fails on configs with _base_ = 'mmpretrain::'",
    remedy='its visualizer passes over the scope that mmengine adds to such a base',
    upstream='mmpretrain/.mim/tools/visualization/browse_dataset.py',
    needed=needed,
    apply=apply,
    modules=('mmpretrain.visualization.visualizer',),
)
