# Copyright (c) The nl_plugins authors. All rights reserved.
"""Repairs of known defects of the installed upstream packages.

Each repair has a file: the symptom, the upstream issue, the condition under
which it acts and what it changes. Where the condition does not hold it does
nothing. ``NL_PLUGINS_COMPAT=0`` in the environment switches all of them off;
``python -m nl_plugins.doctor`` lists them. One line at import says how many are at
work; what each does is logged by ``nl_plugins.compat`` at level DEBUG.
"""

import os

from . import (
    adaptive_pooling_export,
    adjusted_box,
    bf16_scores,
    checked_weights,
    checkpoint_globals,
    cpu_amp,
    cpu_distributed,
    cpu_sync_bn,
    criss_cross_diagonal,
    find_loader,
    foreign_warnings,
    fork_names,
    grad_cam_device,
    label_maps,
    local_videos,
    metrics_report,
    missing_distutils,
    mmaction_drn,
    mmcv_ops,
    mmcv_version,
    moviepy_editor,
    multimodal,
    negative_hue,
    numpy_names,
    package_resources,
    picture_layout,
    stored_config,
    text_lists,
    torchvision_ops,
    tsne_iterations,
    visualizer_scope,
    whole_checkpoints,
)
from .imports import folder_of, is_installed, when_imported
from .repair import APPLIED, OFF, WAITING, Repair, announce

REPAIRS: tuple[Repair, ...] = tuple(
    module.REPAIR
    for module in (
        # The first two are what the others and mmengine stand on.
        package_resources,
        find_loader,
        foreign_warnings,
        missing_distutils,
        torchvision_ops,
        numpy_names,
        fork_names,
        mmcv_version,
        mmcv_ops,
        criss_cross_diagonal,
        mmaction_drn,
        multimodal,
        checkpoint_globals,
        stored_config,
        checked_weights,
        whole_checkpoints,
        metrics_report,
        text_lists,
        local_videos,
        cpu_distributed,
        cpu_sync_bn,
        cpu_amp,
        bf16_scores,
        negative_hue,
        moviepy_editor,
        visualizer_scope,
        picture_layout,
        grad_cam_device,
        tsne_iterations,
        adjusted_box,
        adaptive_pooling_export,
        label_maps,
    )
)


def is_enabled() -> bool:
    """Whether repairs are wanted: ``NL_PLUGINS_COMPAT`` is not ``0``."""
    return os.environ.get('NL_PLUGINS_COMPAT', '1') != '0'


def repair_all() -> None:
    """Apply every repair that is needed here; a second call does nothing."""
    for repair in REPAIRS:
        if is_enabled():
            repair.run()
        else:
            repair.state = OFF


def announce_all() -> None:
    """Say in a line how many repairs are at work; see :func:`.repair.announce`."""
    states = [repair.state for repair in REPAIRS]
    announce(states.count(APPLIED), states.count(WAITING))


__all__ = [
    'REPAIRS',
    'Repair',
    'announce_all',
    'folder_of',
    'is_enabled',
    'is_installed',
    'repair_all',
    'when_imported',
]
