# Copyright (c) The nl_plugins authors. All rights reserved.
"""grad-cam 1.5 dropped ``use_cuda``, which mmpretrain's and mmseg's scripts pass."""

from .repair import Repair, replace, version_of


def _on_the_device_of_the_model(original):
    def __init__(self, *args, use_cuda=None, **kwargs):
        original(self, *args, **kwargs)

    return __init__


def needed() -> bool:
    version = version_of('grad-cam')
    return version is not None and version >= (1, 5)


def apply(module) -> None:
    for name, method in vars(module).items():
        if name[0] != '_' and isinstance(method, type) and '__init__' in vars(method):
            replace(method, '__init__', _on_the_device_of_the_model)


REPAIR = Repair(
    name='grad_cam_device',
    symptom="grad-cam 1.5 has no use_cuda, mmpretrain's and mmseg's vis_cam pass it",
    remedy='it is left out: grad-cam computes where the model is',
    upstream='https://github.com/jacobgil/pytorch-grad-cam/pull/480',
    needed=needed,
    apply=apply,
    modules=('pytorch_grad_cam',),
)
