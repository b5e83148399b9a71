# Copyright (c) The nl_plugins authors. All rights reserved.
"""Disentangled Non-Local Neural Networks, Yin et al., ECCV 2020.

https://arxiv.org/abs/2006.06668
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn as nn
from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, DotAffinity, SoftmaxAffinity, UnaryAffinity
from ..graph.lazy import Map, as_tensor
from ..graph.products import tokens
from ..options import Count, Positive
from .a2 import refuse
from .graph_filter import GraphFilterBlock
from .nl import Mode, Scale, concat_projection, concatenated, logit_scale

# What each definition changes in the defaults of GraphFilterBlock.
_DEFAULTS = {
    'disentangled': dict(bias=True, norm_cfg=None, act_cfg=None, init='mmcv'),
    'snl': dict(affinity='softmax'),
}


@MODELS.register_module()
class DNLBlock(GraphFilterBlock):
    """``z = x + W_z ((A + 1 uᵀ) g)``; a pairwise and a unary term share g.

    The unary weights are u = softmax over positions of m(x), m a 1x1 convolution.

    ``'disentangled'``, the paper's as in mmseg: A sees θ and φ with their means over
    positions subtracted, ``A = softmax_j(s θ_i·φ_j / τ)``, and mmseg's
    ``DisentangledNonLocal2d`` state dicts load as they are. The input is never
    modified. ``'snl'``, the SNL repository's: no means, no τ, A by the option
    ``affinity``, then BN and ReLU.

    Args:
        definition (str): 'disentangled' or 'snl'. Defaults to 'disentangled'.
        mode (str): Affinity of 'disentangled', one of those of :class:`NLBlock`.
            Defaults to 'embedded_gaussian'.
        use_scale (bool | str): As in :class:`NLBlock`. Defaults to True.
        temperature (float): τ, in ``embedded_gaussian`` only. Defaults to 0.05.
        affinity (str): Of 'snl' alone, see :class:`GraphFilterBlock`; 'softmax' there.
        options: ``num_units``, ``act_cfg`` and, for 'snl', ``affinity`` (default
            'softmax') and ``symmetric``, see :class:`GraphFilterBlock`, and those of
            :class:`NonLocalBlock`; 'disentangled' has no norm and no activation.

    Raises:
        ValueError: If an option is outside its choices, or ``affinity`` or
            ``symmetric`` is given to 'disentangled', whose option is ``mode``.
    """

    _abbr_ = 'dnl_block'
    defaults = {**_DEFAULTS['snl'], **_DEFAULTS['disentangled']}
    variants = {
        'disentangled': {},
        'gaussian': dict(mode='gaussian'),
        'dot_product': dict(mode='dot_product', norm_cfg=dict(type='BN')),
        'concatenation': dict(mode='concatenation'),
        'snl': dict(definition='snl'),
        'snl_sym_norm': dict(definition='snl', affinity='sym_norm', num_units=2),
    }

    def __init__(
        self,
        in_channels: Count,
        *,
        definition: Literal['disentangled', 'snl'] = 'disentangled',
        mode: Mode = 'embedded_gaussian',
        use_scale: Scale = True,
        temperature: Positive = 0.05,
        **options: Any,
    ) -> None:
        if definition == 'disentangled':
            refuse(options, 'DNLBlock', definition, 'affinity', 'symmetric')
        elif (mode, use_scale, temperature) != ('embedded_gaussian', True, 0.05):
            raise ValueError(
                f'DNLBlock: mode={mode!r}, use_scale={use_scale!r} and '
                f'temperature={temperature!r} belong to '
                "definition='disentangled', definition='snl' has the option affinity"
            )
        super().__init__(in_channels, **{**_DEFAULTS[definition], **options})
        self.definition = definition
        self.mode = mode
        self.scale = logit_scale(use_scale, self.inner_channels) / temperature
        if self._is_gaussian:
            del self.theta, self.phi
        elif definition == 'disentangled' and mode == 'concatenation':
            self.concat_project = concat_projection(self.inner_channels, bias=False)
        self.add_units()

    @property
    def _is_gaussian(self) -> bool:
        return self.definition == 'disentangled' and self.mode == 'gaussian'

    def extend_unit(self, unit: nn.Module) -> None:
        from mmcv.cnn import build_conv_layer

        unit.conv_mask = build_conv_layer(
            self.conv_cfg,
            self.in_channels,
            1,
            kernel_size=1,
            bias=self.definition == 'disentangled',
        )

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.definition == 'disentangled':
            for unit in self.each_unit():
                unit.conv_mask.reset_parameters()
            if self.mode == 'concatenation':
                self.concat_project.init_weights()

    def affinity(self, x: Tensor) -> Affinity:
        return super().affinity(x) + self._unary(x, self.each_unit()[0])

    def embed(self, x: Tensor, *values: nn.Module) -> list[Map]:
        if not self._is_gaussian:
            return super().embed(x, *values)
        query = centred(tokens(x))
        return [query, query, *self.maps(x, *values)]

    def pairwise(self, theta: Map, phi: Map) -> Affinity:
        if self.definition == 'snl':
            return super().pairwise(theta, phi)
        if self._is_gaussian:
            return SoftmaxAffinity(theta, phi)
        theta, phi = centred(as_tensor(theta)), centred(as_tensor(phi))
        if self.mode == 'dot_product':
            return DotAffinity(theta, phi)
        if self.mode == 'concatenation':
            return concatenated(self.concat_project, theta, phi)
        return SoftmaxAffinity(theta, phi, self.scale)

    def filtered(
        self, affinity: Affinity, values: Map, unit: nn.Module, x: Tensor
    ) -> Tensor:
        return super().filtered(affinity + self._unary(x, unit), values, unit, x)

    def filter(
        self, affinity: Affinity, values: Map, unit: nn.Module, weight: Tensor
    ) -> Tensor:
        return affinity.apply(values, weight)

    def _unary(self, x: Tensor, unit: nn.Module) -> Affinity:
        weights = unit.conv_mask(x).flatten(1).softmax(1)
        return UnaryAffinity(weights, weights.shape[1])


def centred(positions: Tensor) -> Tensor:
    """(B, N, C) minus its mean over positions."""
    return positions - positions.mean(1, keepdim=True)
