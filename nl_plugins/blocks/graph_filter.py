# Copyright (c) The nl_plugins authors. All rights reserved.
"""What the blocks of the SNL repository share: one affinity, filters in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch.nn as nn
from torch import Tensor

from ..graph import Affinity, DotAffinity, SoftmaxAffinity, SymmetricAffinity
from ..graph.filters import reused
from ..graph.lazy import Map, as_tensor, side_by_side
from ..graph.products import concat_channels, identity
from ..graph.result import rectified
from ..options import Cfg, Count
from .base import Init, NonLocalBlock, matrix

AffinityType = Literal['softmax', 'relu_raw', 'sym_norm']


class GraphFilterBlock(NonLocalBlock):
    """``x_k+1 = x_k + relu(norm(filter_k(A, g_k(x_k))))`` with one A for all k.

    With T = θ(x), P = φ(x) at the input x = x_0, the affinity is one of

    ============ ================================= ==================================
    ``affinity`` ``symmetric=False``               ``symmetric=True``
    ============ ================================= ==================================
    softmax      softmax_j(T_i·P_j)                softmax_j((T_i·P_j + P_i·T_j) / 2)
    relu_raw     M = relu(T) relu(P)ᵀ              (M + Mᵀ) / 2
    sym_norm     D^-1/2 M D^-1/2, D = row sums     the same of (M + Mᵀ) / 2
    ============ ================================= ==================================

    A subclass defines ``filter(affinity, values, unit, x)`` and calls ``add_units()``
    at the end of its constructor. A unit holds ``g`` and ``conv_out``; a single unit is
    the block itself, several are ``units.0``, ``units.1``, ...

    Args:
        affinity (str): 'softmax', 'relu_raw' or 'sym_norm', see the table of
            :class:`GraphFilterBlock`. Defaults to 'sym_norm'.
        symmetric (bool, optional): Whether that is made symmetric, see there; None
            means only for 'sym_norm'. Defaults to None.
        num_units (int): Filters in a row on one affinity. Defaults to 1.
        bias (bool): Whether θ, φ and g have a bias. Defaults to False.
        act_cfg (dict, optional): Activation after the norm, before the residual sum.
            Defaults to ReLU, as released; the papers' figures have none.
        options: ``ndim``, ``reduction`` and others, see :class:`NonLocalBlock`;
            ``norm_cfg`` defaults to BN, ``init`` to 'kaiming_fan_out'.
    """

    num_products = 1  # how often the filter of a unit applies the affinity

    def __init__(
        self,
        in_channels: Count,
        *,
        affinity: AffinityType = 'sym_norm',
        symmetric: bool | None = None,
        num_units: Count = 1,
        bias: bool = False,
        norm_cfg: Cfg | None = dict(type='BN'),  # noqa: B006
        act_cfg: Cfg | None = dict(type='ReLU'),  # noqa: B006
        init: Init = 'kaiming_fan_out',
        **options: Any,
    ) -> None:
        super().__init__(in_channels, norm_cfg=norm_cfg, init=init, **options)
        self.affinity_type = affinity
        self.symmetric = affinity == 'sym_norm' if symmetric is None else symmetric
        self.num_units = num_units
        self.bias = bias
        self.act_cfg = act_cfg
        self.theta = self.conv(in_channels, self.inner_channels, bias=bias)
        self.phi = self.conv(in_channels, self.inner_channels, bias=bias)

    def add_units(self, num_terms: int = 1, width: int | None = None) -> None:
        """Build the units and initialise.

        Args:
            num_terms (int): Terms of the filter: ``conv_out`` takes them side by side,
                ``[W_0 W_1 ...]``. Defaults to 1.
            width (int, optional): Channels of ``g``; None means ``inner_channels``.
        """
        self.num_terms = num_terms
        self.width = self.inner_channels if width is None else width
        if self.num_units > 1:
            self.units = nn.ModuleList(nn.Module() for _ in range(self.num_units))
        for unit in self.each_unit():
            unit.g = self.conv(self.in_channels, self.width, bias=self.bias)
            unit.conv_out = self.conv(
                num_terms * self.width,
                self.in_channels,
                bias=self.norm_cfg is None and self.bias,
                norm_cfg=self.norm_cfg,
                act_cfg=self.act_cfg,
            )
            self.extend_unit(unit)
        self.init_weights()

    def extend_unit(self, unit: nn.Module) -> None:
        """Give a unit more layers than ``g`` and ``conv_out``."""

    def each_unit(self) -> Sequence[nn.Module]:
        return self.units if self.num_units > 1 else (self,)

    def filter(
        self, affinity: Affinity, values: Map, unit: nn.Module, weight: Tensor
    ) -> Tensor:
        """The filter with the weight of ``unit.conv_out``, (B, N, C).

        Args:
            affinity (Affinity): A (B, N, N).
            values (Map): g(x) (B, N, width).
            unit (nn.Module): Holds the layers.
            weight (Tensor): ``[W_0 W_1 ...]`` (D_out, num_terms * width).
        """
        raise NotImplementedError(f'{type(self).__name__} does not define filter()')

    def affinity(self, x: Tensor) -> Affinity:
        self.check_input(x)
        return self.pairwise(*self.embed(x))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        first, *others = self.each_unit()
        theta, phi, g = self.embed(x, first.g)
        affinity = self.pairwise(theta, phi)
        affinity = reused(affinity, g, self.num_units * self.num_products)
        filtered = self.filtered(affinity, g, first, x)
        del theta, phi, g  # as large as x: let them go before the norm
        if not others:
            del affinity
        x = self.output(x, filtered, first.conv_out)
        for unit in others:
            filtered = self.filtered(affinity, *self.maps(x, unit.g), unit, x)
            x = self.output(x, filtered, unit.conv_out)
        return x

    def filtered(
        self, affinity: Affinity, values: Map, unit: nn.Module, x: Tensor
    ) -> Tensor:
        """What :meth:`output` takes: the terms of the filter, if its layer has to be
        called."""
        weight = matrix(unit.conv_out)
        if weight is None:
            terms = self.num_terms * self.width
            weight = identity(terms, x)
        return self.filter(affinity, values, unit, weight)

    def embed(self, x: Tensor, *values: nn.Module) -> list[Map]:
        """θ(x), φ(x), and the maps of the layers ``values`` of x."""
        return self.maps(x, self.theta, self.phi, *values)

    def pairwise(self, theta: Map, phi: Map) -> Affinity:
        """The affinity of θ(x) and φ(x), (B, N, C') each."""
        if self.affinity_type == 'softmax' and not self.symmetric:
            return SoftmaxAffinity(theta, phi)
        if self.affinity_type == 'softmax':
            # [T P]_i·[P T]_j / 2 = (T_i·P_j + P_i·T_j) / 2
            theta, phi = as_tensor(theta), as_tensor(phi)
            pair, swapped = concat_channels(theta, phi), concat_channels(phi, theta)
            return SoftmaxAffinity(pair, swapped, 0.5)
        pair = rectified(as_tensor(side_by_side(theta, phi)))
        if self.affinity_type == 'sym_norm':
            return SymmetricAffinity.from_features(pair, symmetric=self.symmetric)
        theta, phi = pair.chunk(2, dim=-1)
        if self.symmetric:
            return DotAffinity(pair, concat_channels(phi, theta), 0.5)
        return DotAffinity(theta, phi, 1.0)
