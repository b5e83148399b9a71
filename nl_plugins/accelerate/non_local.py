# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmcv's ``NonLocal1d/2d/3d`` and mmseg's ``DisentangledNonLocal2d``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..graph import (
    Affinity,
    ConcatAffinity,
    DotAffinity,
    SoftmaxAffinity,
    UnaryAffinity,
)
from ..graph.lazy import untouched
from ..graph.products import tokens
from .capture import is_captured, keeps_method, to_map


def non_local(cls: type) -> Callable:
    """The forward of ``_NonLocalNd``: ``x + conv_out(A g(x))``."""
    original = cls.forward

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        if is_captured(x) or not _is_known(self, cls, x):
            return original(self, x)
        # In the order of the original: hooks see it, and g and phi may share a layer.
        values = tokens(self.g(x))
        if self.mode == 'gaussian':
            theta = tokens(x)
            phi = tokens(self.phi(x)) if self.sub_sample else theta
        else:
            theta, phi = tokens(self.theta(x)), tokens(self.phi(x))
        return _residual(self, x, _pairwise(self, theta, phi), values)

    return forward


def disentangled(cls: type) -> Callable:
    """The forward of ``DisentangledNonLocal2d``: ``x + conv_out((A + 1 m^T) g(x))``.

    A are whitened weights, m unary ones. In Gaussian mode the original subtracts the
    means from its input itself, in place, so that mask and residual see the centred
    map and no gradient exists; here the same numbers come without the side effect.
    """
    original = cls.forward

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        gaussian, captured = self.mode == 'gaussian', is_captured(x)
        # ONNX loses what is written in place: a traced Gaussian is ours, too.
        if (captured and not gaussian) or not _is_known(self, cls, x):
            return original(self, x)
        values = tokens(self.g(x))
        if gaussian:
            theta = phi = _centred(tokens(x))
            x = to_map(theta, x.shape[2:])
        else:
            theta = _centred(tokens(self.theta(x)))
            phi = _centred(tokens(self.phi(x)))
        unary = self.conv_mask(x).flatten(1).softmax(-1)
        if captured:
            weights = self.gaussian(theta, phi.transpose(1, 2)) + unary.unsqueeze(1)
            return x + self.conv_out(to_map(weights @ values, x.shape[2:]))
        affinity = _pairwise(self, theta, phi, 1 / self.temperature)
        affinity = affinity + UnaryAffinity(unary, theta.shape[1])
        return _residual(self, x, affinity, values)

    return forward


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def _is_known(self: nn.Module, cls: type, x: Tensor) -> bool:
    """Whether the module's weights are those of its class, seen by nobody else."""
    if not keeps_method(self, cls, self.mode):
        return False
    if self.mode != 'concatenation':
        return True
    # Only the weight of its projection is used here.
    project = self.concat_project
    conv = getattr(project, 'conv', None)
    plain = (
        type(project).__name__ == 'ConvModule'
        and type(conv) is nn.Conv2d
        and conv.bias is None
        and not project.with_norm
        and isinstance(getattr(project, 'activate', None), nn.ReLU)
    )
    # The sums over sorted positions have no deterministic CUDA kernel.
    strict = x.is_cuda and torch.are_deterministic_algorithms_enabled()
    return plain and not strict and all(map(untouched, project.modules()))


def _pairwise(
    self: nn.Module, theta: Tensor, phi: Tensor, sharpness: float = 1.0
) -> Affinity:
    if self.mode == 'gaussian':
        return SoftmaxAffinity(theta, phi)
    if self.mode == 'embedded_gaussian':
        scale = theta.shape[2] ** -0.5 if self.use_scale else 1.0
        return SoftmaxAffinity(theta, phi, scale * sharpness)
    if self.mode == 'dot_product':
        return DotAffinity(theta, phi)
    # w·[theta_i, phi_j] = a_i + b_j, one number a position.
    weight = self.concat_project.conv.weight.flatten()
    first, second = weight.to(theta.dtype).split(theta.shape[2])
    return ConcatAffinity(theta @ first, phi @ second)


def _residual(self: nn.Module, x: Tensor, affinity: Affinity, values: Tensor) -> Tensor:
    return x + self.conv_out(to_map(affinity.apply(values), x.shape[2:]))
