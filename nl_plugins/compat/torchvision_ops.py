# Copyright (c) The nl_plugins authors. All rights reserved.
"""PyPI's torchvision cannot be imported beside a CPU build of torch."""

import torch

from .imports import folder_of
from .repair import Repair

_SCHEMAS = {
    'nms': 'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'qnms': 'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
}
# torch forgets the schemas when their library object is collected.
_libraries = []


def _is_defined(name: str) -> bool:
    try:
        getattr(torch.ops.torchvision, name)
    except (AttributeError, RuntimeError):
        return False
    return True


def needed() -> bool:
    if torch.version.cuda is not None or torch.version.hip is not None:
        return False
    folder = folder_of('torchvision')
    if folder is None or _is_defined('nms'):
        return False
    for library in sorted(folder.glob('_C*.so')) + sorted(folder.glob('_C*.pyd')):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
    return not _is_defined('nms')


def apply() -> None:
    library = torch.library.Library('torchvision', 'FRAGMENT')
    for name, schema in _SCHEMAS.items():
        if not _is_defined(name):
            library.define(schema)
    _libraries.append(library)


REPAIR = Repair(
    name='torchvision_ops',
    symptom="torchvision's C library does not load, importing torchvision fails",
    remedy='the schemas of its operators are defined, transforms and models work',
    upstream='torchvision/_meta_registrations.py',
    needed=needed,
    apply=apply,
)
