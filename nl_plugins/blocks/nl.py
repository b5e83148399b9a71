# Copyright (c) The nl_plugins authors. All rights reserved.
"""Non-local Neural Networks, Wang et al., CVPR 2018, https://arxiv.org/abs/1711.07971."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn as nn
from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, ConcatAffinity, DotAffinity, SoftmaxAffinity
from ..graph.affinity import MatrixAffinity
from ..graph.lazy import Map, as_tensor, then, transparent
from ..graph.pooling import max_pool, pooled_grid
from ..graph.products import tokens, transposed
from ..options import Cfg, Count
from .base import Init, NonLocalBlock, matrix

Mode = Literal['gaussian', 'embedded_gaussian', 'dot_product', 'concatenation']
Scale = Literal[False, True, 'inverted']


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
        return self._affinity(*self._maps(x))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return self.output(x, self._filtered(x))

    def _filtered(self, x: Tensor) -> Tensor:
        theta, phi, g = self._maps(x, self.g)
        return self._affinity(theta, phi).apply(g, matrix(self.conv_out))

    def _maps(self, x: Tensor, *values: nn.Module) -> list[Map]:
        """Query and key of x, and the maps of the layers ``values`` of it."""
        source = self.pool(x) if self.pool_first else x
        if self.mode == 'gaussian':
            query = key = tokens(x)
            if self.sub_sample:
                key = tokens(source if self.pool_first else self.pool(x))
            return [query, key, *self.maps(source, *values)]
        if source is x:
            return self.maps(x, self.theta, self.phi, *values)
        return [*self.maps(x, self.theta), *self.maps(source, self.phi, *values)]

    def _affinity(self, query: Map, key: Map) -> Affinity:
        if self.mode == 'concatenation':
            return concatenated(self.concat_project, query, key)
        if self.mode == 'dot_product':
            return DotAffinity(query, key)
        return SoftmaxAffinity(query, key, self.scale)

    def check_input(self, x: Tensor) -> None:
        super().check_input(x)
        if self.sub_sample and min(x.shape[2:][-2:]) < 2:
            raise ValueError(
                f'NLBlock with sub_sample=True halves the map, so each pooled size '
                f'must be at least 2, but got {tuple(x.shape)}'
            )


def logit_scale(use_scale: bool | str, width: int) -> float:
    """Factor of the logits: C'^-1/2, C'^1/2 (``'inverted'``) or 1."""
    if not use_scale:
        return 1.0
    return width**0.5 if use_scale == 'inverted' else width**-0.5


def concat_projection(width: int, bias: bool) -> nn.Module:
    """The layer w of the concatenation affinity, 2-D whatever the input, as mmcv's."""
    from mmcv.cnn import ConvModule

    # Not in place: a backward hook on the convolution forbids it.
    return ConvModule(2 * width, 1, kernel_size=1, bias=bias, inplace=False)


def concatenated(project: nn.Module, query: Map, key: Map) -> Affinity:
    """``relu(w·[q_i, k_j] + b) / M`` with the layer w of :func:`concat_projection`.

    One number a position, a_i + b_j, if the layer is no more than its weight; else it
    is called with every pair.
    """
    if transparent(project) and transparent(project.activate):
        first, second = matrix(project).chunk(2, dim=1)
        a, b = then(query, first, project.conv.bias), then(key, second)
        return ConcatAffinity(as_tensor(a).squeeze(-1), as_tensor(b).squeeze(-1))
    queries, keys = query.shape[1], key.shape[1]
    pairs = torch.cat(
        [
            transposed(as_tensor(query)).unsqueeze(3).expand(-1, -1, -1, keys),
            transposed(as_tensor(key)).unsqueeze(2).expand(-1, -1, queries, -1),
        ],
        dim=1,
    )
    return MatrixAffinity(project(pairs).squeeze(1) / keys)
