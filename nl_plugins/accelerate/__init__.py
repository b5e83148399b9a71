# Copyright (c) The nl_plugins authors. All rights reserved.
"""The codebases' own non-local modules, computed without their N x M matrix.

Importing this package makes the classes of :data:`TARGETS` compute with
``nl_plugins.graph``: mmcv's ``NonLocal1d/2d/3d`` and ``GeneralizedAttention``, mmseg's
``SelfAttentionBlock`` (``DAHead``, ``ANNHead``, ``OCRHead``, ``ISAHead``) and
``DisentangledNonLocal2d`` (``DNLHead``). Parameters, state-dict keys and results stay,
so configs and published checkpoints work unchanged::

    custom_imports = dict(
        imports=['nl_plugins', 'nl_plugins.accelerate'], allow_failed_imports=False)

Existing modules change too, since the classes do. :func:`undo` restores the
originals, and :func:`apply` accelerates again. The original computes where its own
operations are wanted: in graphs that ``torch.jit`` or ``torch.fx`` capture, also for
ONNX, and in a subclass or module that replaces the function of the weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

from ..compat import when_imported

try:
    import mmcv.cnn.bricks  # noqa: F401
    from mmengine.logging import print_log
except ImportError as error:
    raise ImportError(
        f'nl_plugins.accelerate needs mmcv>=2.0.0, whose import failed ({error}): '
        'pip install "nl_plugins[mim]"'
    ) from error

from .generalized import generalized_attention
from .non_local import disentangled, non_local
from .self_attention import self_attention

__all__ = ['TARGETS', 'accelerated_classes', 'apply', 'is_applied', 'undo']

#: Module and name of each accelerated class -> what makes its forward from the class.
TARGETS: dict[tuple[str, str], Callable[[type], Callable]] = {
    ('mmcv.cnn.bricks.non_local', '_NonLocalNd'): non_local,
    ('mmcv.cnn.bricks.generalized_attention', 'GeneralizedAttention'): (
        generalized_attention
    ),
    ('mmseg.models.decode_heads.dnl_head', 'DisentangledNonLocal2d'): disentangled,
    ('mmseg.models.utils.self_attention_block', 'SelfAttentionBlock'): self_attention,
}

#: The forward that each accelerated class came with.
_originals: dict[type, Callable] = {}
_state = dict(applied=False, watching=False)


def apply() -> None:
    """Accelerate the classes, each as soon as its module is imported.

    Does nothing if they are accelerated already.
    """
    if is_applied():
        return
    _state['applied'] = True
    for name in dict.fromkeys(module for module, _ in TARGETS):
        if not _state['watching']:
            when_imported(name, _accelerate)
        elif name in sys.modules:
            _accelerate(sys.modules[name])
    _state['watching'] = True
    print_log(
        'nl_plugins.accelerate: non-local modules of mmcv and mmseg compute without '
        'their affinity matrix',
        logger='current',
    )


def undo() -> None:
    """Restore the forward of every accelerated class."""
    _state['applied'] = False
    while _originals:
        cls, forward = _originals.popitem()
        cls.forward = forward


def is_applied() -> bool:
    """Whether the classes are accelerated."""
    return _state['applied']


def accelerated_classes() -> list[type]:
    """The classes that compute without their matrix now."""
    return list(_originals)


def _accelerate(module: ModuleType) -> None:
    if not is_applied():
        return
    for (owner, name), make in TARGETS.items():
        cls = getattr(module, name, None) if owner == module.__name__ else None
        if cls is not None and cls not in _originals:
            forward = make(cls)
            _originals[cls], cls.forward = cls.forward, forward


apply()
