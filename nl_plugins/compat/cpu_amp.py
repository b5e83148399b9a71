# Copyright (c) The nl_plugins authors. All rights reserved.
"""``AmpOptimWrapper`` asserts an accelerator; bf16 autocast works on a CPU."""

import torch

from .imports import is_installed
from .repair import Repair


def needed() -> bool:
    return is_installed('mmengine') and not torch.cuda.is_available()


def _pass() -> bool:
    return True


def apply(module) -> None:
    # This module asks it for the assertion only; autocast has its own answer.
    module.is_cuda_available = _pass


REPAIR = Repair(
    name='cpu_amp',
    symptom='AmpOptimWrapper refuses to run without an accelerator',
    remedy='bf16 autocast runs on the CPU, without loss scaling',
    upstream='https://github.com/open-mmlab/mmpretrain/issues/1556',
    needed=needed,
    apply=apply,
    modules=('mmengine.optim.optimizer.amp_optimizer_wrapper',),
)
