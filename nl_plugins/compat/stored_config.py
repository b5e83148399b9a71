# Copyright (c) The nl_plugins authors. All rights reserved.
"""Resuming executes a config that the checkpoint holds.

A config is Python code. ``Runner.resume`` runs ``meta['config']``, which no mmengine
ever wrote, to learn a number of GPUs of old.
"""

from .imports import is_installed
from .repair import Repair, replace


def _without_config(original):
    def load_checkpoint(self, *args, **kwargs):
        checkpoint = original(self, *args, **kwargs)
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)
        return checkpoint

    return load_checkpoint


def needed() -> bool:
    return is_installed('mmengine')


def apply(module) -> None:
    owner = getattr(module, 'Runner', None) or module.SingleDeviceStrategy
    replace(owner, 'load_checkpoint', _without_config)


REPAIR = Repair(
    name='stored_config',
    symptom='resuming runs the Python code of a config stored in the checkpoint',
    remedy='that config is left unread',
    upstream='mmengine/runner/runner.py',
    needed=needed,
    apply=apply,
    modules=('mmengine.runner.runner', 'mmengine._strategy.single_device'),
)
