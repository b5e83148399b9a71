# Copyright (c) The nl_plugins authors. All rights reserved.
"""Non-local Neural Networks, Wang et al., CVPR 2018, https://arxiv.org/abs/1711.07971."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, ConcatAffinity, DotAffinity, SoftmaxAffinity
from ..graph.affinity import (
    LinearMap,
    channel_first_matmul,
    convolves,
    merges,
    mix,
    scaled_product,
)
from ..graph.dispatch import formulation, is_full_precision, nominal
from ..graph.dot import projected_dot
from ..options import Cfg, Count
from .base import (
    Init,
    NonLocalBlock,
    joint,
    linear_map,
    matrix,
    tokens,
)

Mode = Literal['gaussian', 'embedded_gaussian', 'dot_product', 'concatenation']
Scale = Literal[False, True, 'inverted']

# Of one map of up to so many values torch's convolution is a matrix product, without
# the copies of a oneDNN primitive; and the affinity of so many positions is small.
MOST_VALUES = 20480
MOST_POSITIONS = 512


@MODELS.register_module()
class NLBlock(NonLocalBlock):
    r"""``z = x + W_z (A g(x))`` with four affinities A.

    With θ, φ, g 1x1 convolutions of x, C' = ``in_channels // reduction`` and M key
    positions, row i of A is

    ===================== ==================================
    ``gaussian``          softmax_j(x_i·x_j)
    ``embedded_gaussian`` softmax_j(s θ_i·φ_j), s = C'^-1/2
    ``dot_product``       θ_i·φ_j / M
    ``concatenation``     relu(w·[θ_i, φ_j]) / M
    ===================== ==================================

    State dicts of mmcv's ``NonLocal1d/2d/3d`` load as they are, and the defaults are
    mmcv's. The options below make the other public implementations. The non-local
    block of the SNL repository, whose affinity is an option, is
    ``ChebyshevNLBlock(order=1, zero_order=False)``.

    Args:
        in_channels (int): Channels C of the input and the output.
        mode (str): The affinity, see above. Defaults to 'embedded_gaussian'.
        use_scale (bool | str): The factor s, in ``embedded_gaussian`` only: True is
            C'^-1/2, False is 1, ``'inverted'`` is C'^1/2, with which the checkpoints
            of GCNet's own repository were trained. Defaults to True.
        sub_sample (bool): Halve the key positions along space (not time) by a max
            pool. Defaults to False.
        sub_sample_order (str): ``'conv_pool'`` pools φ and g (mmcv, TSM);
            ``'pool_conv'`` pools x before them (Caffe2, SlowFast, Inception-I3D).
            The two differ. Defaults to 'conv_pool'.
        bias (bool): Whether θ, φ and g have a bias. Defaults to True.
        out_bias (bool, optional): Whether W_z has a bias; None means only without a
            norm, as in mmcv. Defaults to None.
        concat_bias (bool): Whether w has a bias. Defaults to False.
        act_cfg (dict, optional): Activation before the residual sum.
            Defaults to None.
        options: ``ndim``, ``reduction``, ``norm_cfg`` and others, see
            :class:`NonLocalBlock`; ``init`` defaults to 'mmcv'.

    Raises:
        ValueError: If an option is outside its choices, or the input is too small to
            be pooled.
    """

    _abbr_ = 'nl_block'
    variants = {
        'embedded_gaussian': {},
        'gaussian': dict(mode='gaussian'),
        'dot_product': dict(mode='dot_product'),
        'concatenation': dict(mode='concatenation'),
        'embedded_gaussian_pooled': dict(sub_sample=True, norm_cfg=dict(type='BN')),
        'gaussian_pooled': dict(mode='gaussian', sub_sample=True),
        'dot_product_pool_conv': dict(
            mode='dot_product', sub_sample=True, sub_sample_order='pool_conv'
        ),
        'concatenation_pooled': dict(
            mode='concatenation', sub_sample=True, concat_bias=True
        ),
    }

    def __init__(
        self,
        in_channels: Count,
        *,
        mode: Mode = 'embedded_gaussian',
        use_scale: Scale = True,
        sub_sample: bool = False,
        sub_sample_order: Literal['conv_pool', 'pool_conv'] = 'conv_pool',
        bias: bool = True,
        out_bias: bool | None = None,
        concat_bias: bool = False,
        act_cfg: Cfg | None = None,
        init: Init = 'mmcv',
        **options: Any,
    ) -> None:
        super().__init__(in_channels, init=init, **options)
        self.mode = mode
        self.sub_sample = sub_sample
        self.pool_first = sub_sample and sub_sample_order == 'pool_conv'
        width = self.inner_channels
        embedded = mode == 'embedded_gaussian'
        self.scale = logit_scale(use_scale, width) if embedded else 1.0
        if out_bias is None:
            out_bias = self.norm_cfg is None

        self.g = self.conv(in_channels, width, bias=bias)
        self.conv_out = self.conv(
            width, in_channels, bias=out_bias, norm_cfg=self.norm_cfg, act_cfg=act_cfg
        )
        if mode != 'gaussian':
            self.theta = self.conv(in_channels, width, bias=bias)
            self.phi = self.conv(in_channels, width, bias=bias)
        if mode == 'concatenation':
            self.concat_project = concat_projection(width, bias=concat_bias)
        if sub_sample:
            self.pool = max_pool(self.ndim)
            if not self.pool_first:
                self.g = nn.Sequential(self.g, self.pool)
                if mode != 'gaussian':
                    self.phi = nn.Sequential(self.phi, self.pool)
        self.init_weights()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.mode == 'concatenation' and self.init == 'mmcv':
            self.concat_project.init_weights()

    def key_grid(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        return pooled_grid(spatial) if self.sub_sample else tuple(spatial)

    def affinity(self, x: Tensor) -> Affinity:
        self.check_input(x)
        return self._affinity(x, self.pool(x) if self.pool_first else x)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        if self.builds_matrix(x):
            return x + self.conv_out(self._layer_by_layer(x))
        if self._folds(x):
            maps = map(linear_map, (self.theta, self.phi, self.g))
            slope, constant = projected_dot(tokens(x), *maps, matrix(self.conv_out))
            return self.output(x, channel_first_matmul(tokens(x), slope, constant))
        source = self.pool(x) if self.pool_first else x
        if self.mode == 'concatenation' and self._plain():
            first, second = self._score_weights()
            scores = [[compose(first, self.theta)], [compose(second, self.phi)]]
            g, a, b = joint(tokens(x), [[linear_map(self.g)], *scores], True)
            affinity = self._from_scores(a, b)
        elif self.mode in ('gaussian', 'concatenation'):
            affinity = self._affinity(x, source)
            (g,) = self.project(source, self.g)
        elif self.pool_first:
            (theta,) = self.project(x, self.theta)
            phi, g = self.project(source, self.phi, self.g)
            affinity = self._pairwise(theta, phi)
        else:
            theta, phi, g = self.project(
                x,
                *(self.theta, self.phi, self.g),
                channels_last=self.mode == 'embedded_gaussian',
            )
            affinity = self._pairwise(theta, phi)
        return self.output(x, affinity.apply(g, matrix(self.conv_out)))

    def check_input(self, x: Tensor) -> None:
        super().check_input(x)
        if self.sub_sample and min(x.shape[2:][-2:]) < 2:
            raise ValueError(
                f'NLBlock with sub_sample=True halves the map, so each pooled size '
                f'must be at least 2, but got {tuple(x.shape)}'
            )

    def builds_matrix(self, x: Tensor) -> bool:
        """Whether the layers one by one are as fast, so that fewer calls win.

        On a CPU: one small map, or several where the products are convolutions anyway.
        """
        if (
            formulation() != 'auto'
            or x.device.type != 'cpu'
            or self.conv_out.with_activation
            or not is_full_precision(x)
        ):
            return False
        one = nominal(x.shape[0]) == 1
        if one:
            positions = math.prod(x.shape[2:])
            # Before a pool g is called anyway, and conv_out reads fewer channels.
            called = self.mode == 'gaussian' and self.sub_sample and not self.pool_first
            width = self.inner_channels if called else self.in_channels
            if positions > MOST_POSITIONS or positions * width > MOST_VALUES:
                return False
            if self.in_channels < 512:
                return True
        # The scores' weights, joined to θ and φ, are less than a convolution.
        elif torch.is_grad_enabled() or self.mode == 'concatenation':
            return False
        weight = self.conv_out.conv.weight.flatten(1)
        if one:
            return not (self.pool_first or merges(tokens(x), weight))
        return convolves(tokens(x), weight)

    def _layer_by_layer(self, x: Tensor) -> Tensor:
        """``A g(x)`` (B, C', *S) as the table of the class says it.

        Without affinities, which cost as much as one of these products.
        """
        source = self.pool(x) if self.pool_first else x
        g = self.g(source).flatten(2)
        if self.mode == 'gaussian':
            query, key = tokens(x), self._pooled(x, source).flatten(2)
        else:
            query, key = tokens(self.theta(x)), self.phi(source).flatten(2)
        if self.mode == 'concatenation':
            first, second = self._score_weights()
            a = F.linear(query, first, self.concat_project.conv.bias)
            weights = (a + second @ key).relu() / g.shape[2]
        elif self.mode == 'dot_product':
            weights = torch.bmm(query, key) / g.shape[2]
        else:
            weights = scaled_product(query, key.mT, self.scale).softmax(-1)
        return torch.bmm(g, weights.mT).view(x.shape[0], -1, *x.shape[2:])

    def _folds(self, x: Tensor) -> bool:
        """Whether the dot product goes through the Gram matrix of the channels."""
        return (
            self.mode == 'dot_product'
            and math.prod(x.shape[2:]) >= 2 * self.in_channels
            and self._plain()
            and is_full_precision(x)
            and formulation() != 'dense'
        )

    def _plain(self) -> bool:
        """Whether θ, φ and g are bare 1x1 convolutions of one input."""
        return not self.sub_sample and all(
            linear_map(layer) for layer in (self.theta, self.phi, self.g)
        )

    def _affinity(self, x: Tensor, source: Tensor) -> Affinity:
        if self.mode == 'gaussian':
            query = tokens(x)
            if self.sub_sample:
                return SoftmaxAffinity(query, tokens(self._pooled(x, source)))
            return SoftmaxAffinity(query, query)
        if self.mode == 'concatenation':
            return self._concatenation(x, source)
        (theta,) = self.project(x, self.theta)
        (phi,) = self.project(source, self.phi)
        return self._pairwise(theta, phi)

    def _pooled(self, x: Tensor, source: Tensor) -> Tensor:
        return self.pool(x) if self.sub_sample and not self.pool_first else source

    def _pairwise(self, theta: Tensor, phi: Tensor) -> Affinity:
        if self.mode == 'dot_product':
            return DotAffinity(theta, phi)
        return SoftmaxAffinity(theta, phi, self.scale)

    def _concatenation(self, x: Tensor, source: Tensor) -> Affinity:
        first, second = self._score_weights()
        a = mix(tokens(x), *compose(first, self.theta))
        if isinstance(self.phi, nn.Sequential):
            b = tokens(self.phi(source)) @ second.mT
        else:
            b = mix(tokens(source), *compose(second, self.phi))
        return self._from_scores(a, b)

    def _score_weights(self) -> tuple[Tensor, Tensor]:
        """The halves of w, (1, C') each, that meet θ and φ."""
        return matrix(self.concat_project).chunk(2, dim=1)

    def _from_scores(self, a: Tensor, b: Tensor) -> Affinity:
        bias = self.concat_project.conv.bias
        return ConcatAffinity(
            (a if bias is None else a + bias).squeeze(-1), b.squeeze(-1)
        )


def logit_scale(use_scale: bool | str, width: int) -> float:
    """Factor of the logits: C'^-1/2, C'^1/2 (``'inverted'``) or 1."""
    if not use_scale:
        return 1.0
    return width**0.5 if use_scale == 'inverted' else width**-0.5


def concat_projection(width: int, bias: bool) -> nn.Module:
    """The layer w of the concatenation affinity, 2-D whatever the input, as mmcv's."""
    from mmcv.cnn import ConvModule

    return ConvModule(2 * width, 1, kernel_size=1, bias=bias)


def compose(weight: Tensor, conv: nn.Module) -> LinearMap:
    """``weight @ conv(x)`` as one map of x: its width, not the convolution's."""
    bias = conv.conv.bias
    return weight @ matrix(conv), None if bias is None else weight @ bias


class _MaxPool3d(nn.MaxPool3d):
    """Keeps the dtype; on a CPU, autocast makes it float32."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(x.dtype)


def max_pool(ndim: int) -> nn.Module:
    """The parameter-free pool of the keys: 2 along space, 1 along time."""
    if ndim == 3:
        return _MaxPool3d((1, 2, 2))
    return (nn.MaxPool1d, nn.MaxPool2d)[ndim - 1](2)


def pooled_grid(spatial: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes after :func:`max_pool`."""
    return (*spatial[:-2], *(size // 2 for size in spatial[-2:]))
