# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmcv's ``CrissCrossAttention`` (``CCHead``) cannot be exported to ONNX."""

import torch

from .imports import folder_of
from .repair import Repair


def NEG_INF_DIAG(n: int, device: torch.device) -> torch.Tensor:
    """(n, n): minus infinity on the diagonal, zero elsewhere."""
    index = torch.arange(n, device=device)
    itself = index.unsqueeze(1) == index.unsqueeze(0)
    return torch.zeros(n, n, device=device).masked_fill(itself, float('-inf'))


def needed() -> bool:
    folder = folder_of('mmcv')
    source = folder / 'ops' / 'cc_attention.py' if folder else None
    return bool(source) and source.is_file() and 'torch.diag(' in source.read_text()


def apply(module) -> None:
    module.NEG_INF_DIAG = NEG_INF_DIAG


REPAIR = Repair(
    name='criss_cross_diagonal',
    symptom="ONNX has no operator for torch.diag in mmcv's CrissCrossAttention",
    remedy='the same matrix comes from a comparison of positions',
    upstream='mmcv/ops/cc_attention.py',
    needed=needed,
    apply=apply,
    modules=('mmcv.ops.cc_attention',),
)
