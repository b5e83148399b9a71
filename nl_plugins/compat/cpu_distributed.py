# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmengine's distributed set-up assumes CUDA."""

import torch

from .imports import is_installed
from .repair import Repair, replace


def needed() -> bool:
    return is_installed('mmengine') and not torch.cuda.is_available()


def _on_cpu(original):
    def init_dist(backend, **kwargs):
        set_device = torch.cuda.set_device
        torch.cuda.set_device = lambda device: None
        try:
            original('gloo' if backend == 'nccl' else backend, **kwargs)
        finally:
            torch.cuda.set_device = set_device

    return init_dist


def _without_device_ids(original):
    def __init__(self, module, *args, device_ids=None, **kwargs):
        if all(parameter.device.type == 'cpu' for parameter in module.parameters()):
            device_ids = None
        original(self, module, *args, device_ids=device_ids, **kwargs)

    return __init__


def apply(module) -> None:
    if module.__name__ == 'mmengine.dist.utils':
        for name in ('_init_dist_pytorch', '_init_dist_mpi', '_init_dist_slurm'):
            replace(module, name, _on_cpu)
    else:
        replace(module.MMDistributedDataParallel, '__init__', _without_device_ids)


REPAIR = Repair(
    name='cpu_distributed',
    symptom='distributed runs need CUDA, there is none',
    remedy='processes use gloo and DDP gets no device_ids',
    upstream='mmengine/dist/utils.py, mmengine/runner/runner.py',
    needed=needed,
    apply=apply,
    modules=('mmengine.dist.utils', 'mmengine.model.wrappers.distributed'),
)
