# Copyright (c) The nl_plugins authors. All rights reserved.
"""A module of the user's own beside nl_plugins in ``custom_imports``."""

import os

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

EXIT_STATUS = 17


@HOOKS.register_module()
class InterruptionHook(Hook):
    """Ends the process like a power cut.

    Args:
        after (int, optional): Iterations after which it does, their hooks
            included. Defaults to None, never.
    """

    priority = 'LOWEST'

    def __init__(self, after=None):
        self.after = after

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.after:
            os._exit(EXIT_STATUS)
