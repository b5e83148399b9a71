# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every process of a distributed test writes the same JSON report at once.

``LoggerHook.after_test_epoch`` dumps the metrics in all processes to one file; where
their texts differ in length, what is left is the shorter over the end of the longer.
"""

from .imports import is_installed
from .repair import Repair, replace


def needed() -> bool:
    return is_installed('mmengine')


def apply(module) -> None:
    from mmengine.dist import master_only

    replace(module, 'dump', master_only)


REPAIR = Repair(
    name='metrics_report',
    symptom='all processes of a test write one JSON report over each other',
    remedy='the first process writes it',
    upstream='mmengine/hooks/logger_hook.py',
    needed=needed,
    apply=apply,
    modules=('mmengine.hooks.logger_hook',),
)
