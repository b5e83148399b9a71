# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmcv's own non-local modules, computed without their N x M matrix.

Importing this module makes mmcv's ``NonLocal1d/2d/3d`` (mmaction's NL backbones,
mmseg's ``NLHead``) and mmseg's ``DisentangledNonLocal2d`` (``DNLHead``) compute with
``nl_plugins.graph``. Parameters, state-dict keys and results stay, so configs and
published checkpoints work unchanged::

    custom_imports = dict(
        imports=['nl_plugins', 'nl_plugins.accelerate'], allow_failed_imports=False)

Existing modules change too, since the classes do. :func:`undo` restores mmcv, and
:func:`apply` accelerates again. A subclass that overrides how the weights are computed
keeps its own computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch.nn as nn
from torch import Tensor

from .graph import (
    Affinity,
    ConcatAffinity,
    DotAffinity,
    SoftmaxAffinity,
    UnaryAffinity,
)

try:
    from mmcv.cnn.bricks.non_local import _NonLocalNd
    from mmengine.logging import print_log
except ImportError as error:
    raise ImportError(
        f'nl_plugins.accelerate needs mmcv>=2.0.0, whose import failed ({error}): '
        'pip install "nl_plugins[mim]"'
    ) from error

__all__ = ['apply', 'is_applied', 'undo']

#: The replaced forward of each class.
_originals: dict[type, Callable] = {}
_HOOK = '__init_subclass__'


def apply() -> None:
    """Accelerate mmcv's and mmseg's modules; does nothing if they are already."""
    if is_applied():
        return
    _replace(_NonLocalNd, _non_local_forward)
    for cls in _descendants(_NonLocalNd):
        _adopt(cls)
    # mmseg may be imported later; its class is seen when it is defined.
    setattr(_NonLocalNd, _HOOK, classmethod(lambda cls, **_: _adopt(cls)))
    print_log(
        'nl_plugins.accelerate: non-local modules of mmcv and mmseg compute without '
        'their affinity matrix',
        logger='current',
    )


def undo() -> None:
    """Restore the forward of every accelerated class."""
    if not is_applied():
        return
    delattr(_NonLocalNd, _HOOK)
    while _originals:
        cls, forward = _originals.popitem()
        cls.forward = forward


def is_applied() -> bool:
    """Whether the modules are accelerated."""
    return bool(_originals)


def _replace(cls: type, forward: Callable) -> None:
    _originals[cls] = cls.forward
    cls.forward = forward


def _descendants(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)


def _adopt(cls: type) -> None:
    if (cls.__module__, cls.__name__) == (
        'mmseg.models.decode_heads.dnl_head',
        'DisentangledNonLocal2d',
    ):
        _replace(cls, _disentangled_forward)


def _non_local_forward(self: nn.Module, x: Tensor) -> Tensor:
    """``x + conv_out(A g(x))`` for x (B, C, *S)."""
    if getattr(type(self), self.mode) is not getattr(_NonLocalNd, self.mode):
        return _originals[_NonLocalNd](self, x)
    if self.mode == 'gaussian':
        theta = _tokens(x)
        phi = _tokens(self.phi(x)) if self.sub_sample else theta
        affinity = SoftmaxAffinity(theta, phi)
    else:
        theta, phi = _tokens(self.theta(x)), _tokens(self.phi(x))
        affinity = _pairwise(self, theta, phi)
    return _residual(self, x, affinity)


def _disentangled_forward(self: nn.Module, x: Tensor) -> Tensor:
    """``x + conv_out((A + 1 m^T) g(x))``: whitened weights A, unary weights m."""
    owner = _class_of(self, _disentangled_forward)
    # In gaussian mode the original subtracts the mean from x itself.
    if self.mode == 'gaussian' or getattr(type(self), self.mode) is not getattr(
        owner, self.mode
    ):
        return _originals[owner](self, x)
    theta, phi = _tokens(self.theta(x)), _tokens(self.phi(x))
    theta = theta - theta.mean(1, keepdim=True)
    phi = phi - phi.mean(1, keepdim=True)
    unary = self.conv_mask(x).flatten(1).softmax(-1)
    affinity = _pairwise(self, theta, phi, 1 / self.temperature)
    affinity = affinity + UnaryAffinity(unary, theta.shape[1])
    return _residual(self, x, affinity)


def _class_of(module: nn.Module, forward: Callable) -> type:
    return next(c for c in type(module).__mro__ if vars(c).get('forward') is forward)


def _pairwise(
    self: nn.Module, theta: Tensor, phi: Tensor, sharpness: float = 1.0
) -> Affinity:
    if self.mode == 'embedded_gaussian':
        scale = theta.shape[2] ** -0.5 if self.use_scale else 1.0
        return SoftmaxAffinity(theta, phi, scale * sharpness)
    if self.mode == 'dot_product':
        return DotAffinity(theta, phi)
    # w·[theta_i, phi_j] = a_i + b_j, one number a position.
    weight = self.concat_project.conv.weight.flatten()
    first, second = weight.to(theta.dtype).split(theta.shape[2])
    return ConcatAffinity(theta @ first, phi @ second)


def _residual(self: nn.Module, x: Tensor, affinity: Affinity) -> Tensor:
    y = affinity.apply(_tokens(self.g(x)))
    return x + self.conv_out(y.mT.reshape(x.shape[0], -1, *x.shape[2:]))


def _tokens(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, N, C), a view."""
    return x.flatten(2).mT


apply()
