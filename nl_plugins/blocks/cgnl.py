# Copyright (c) The nl_plugins authors. All rights reserved.
"""Compact Generalized Non-local Network, Yue et al., NeurIPS 2018.

https://arxiv.org/abs/1810.13125
"""

from __future__ import annotations

import math
from typing import Any, Literal

from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, CompactAffinity
from ..graph.products import transposed
from ..options import Cfg, Count, Natural, Positive
from .base import NonLocalBlock


@MODELS.register_module()
class CGNLBlock(NonLocalBlock):
    """``z = x + GN(W_z (A g))``; the nodes are positions x channels of a group.

    A node is one scalar θ_i, φ_j of the C'/G x N in a group. The kernel is the product
    ``A_ij = θ_i φ_j`` ('dot') or the Taylor series of a Gaussian ('rbf')::

        A_ij = Σ_k c_k (θ_i φ_j)^k,  c_k = exp(-2γ) (2γ)^k / k!,  k = 0 .. order

    whose factor is exp(-2γ), as in the released code, instead of
    exp(-γ(θ_i² + φ_j²)). ``affinity(x)`` is (B G, n, n) with n = C'/G N, and
    ``key_grid`` (C'/G, *S).

    Args:
        kernel (str): 'dot' or 'rbf'. Defaults to 'dot'.
        order (int): Highest power of the 'rbf' series. Defaults to 3.
        gamma (float): γ of 'rbf'. Defaults to 1e-4.
        groups (int): G, divides ``in_channels`` and the inner channels.
            Defaults to 8.
        use_scale (bool): Divide A by sqrt(n). Defaults to False.
        options: ``ndim``, ``reduction`` and others, see :class:`NonLocalBlock`;
            ``norm_cfg`` defaults to a group norm of G groups.

    Raises:
        ValueError: If ``groups`` does not divide both widths, or an option is outside
            its choices.
    """

    _abbr_ = 'cgnl_block'
    variants = {
        'dot': {},
        'dot_scaled': dict(groups=2, use_scale=True),
        'rbf': dict(kernel='rbf'),
        'rbf_snl': dict(kernel='rbf', order=2, groups=1),
        'rbf_scaled': dict(kernel='rbf', order=1, groups=4, use_scale=True),
    }

    def __init__(
        self,
        in_channels: Count,
        *,
        kernel: Literal['dot', 'rbf'] = 'dot',
        order: Natural = 3,
        gamma: Positive = 1e-4,
        groups: Count = 8,
        use_scale: bool = False,
        norm_cfg: Cfg | None = dict(type='GN'),  # noqa: B006
        **options: Any,
    ) -> None:
        super().__init__(in_channels, norm_cfg=norm_cfg, **options)
        width = self.inner_channels
        if in_channels % groups or width % groups:
            common = math.gcd(in_channels, width)
            divisors = [n for n in range(1, common + 1) if common % n == 0]
            raise ValueError(
                f'CGNLBlock: groups must divide in_channels={in_channels} and the '
                f'inner channels {width}, one of {divisors}, but got {groups!r}'
            )
        self.groups = groups
        self.use_scale = use_scale
        self.coefficients = (
            (0.0, 1.0) if kernel == 'dot' else taylor_coefficients(order, gamma)
        )
        if self.norm_cfg is not None and self.norm_cfg['type'] == 'GN':
            self.norm_cfg = {'num_groups': groups, **self.norm_cfg}
        self.theta = self.conv(in_channels, width, bias=False)
        self.phi = self.conv(in_channels, width, bias=False)
        self.g = self.conv(in_channels, width, bias=False)
        self.conv_out = self.conv(
            width, in_channels, bias=False, groups=groups, norm_cfg=self.norm_cfg
        )
        self.init_weights()

    def key_grid(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        return (self.inner_channels // self.groups, *spatial)

    def affinity(self, x: Tensor) -> Affinity:
        self.check_input(x)
        return self._affinity(*self.project(x, self.theta, self.phi))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        theta, phi, g = self.project(x, self.theta, self.phi, self.g)
        out = self._affinity(theta, phi).apply(self._nodes(g))
        out = out.reshape(x.shape[0], self.inner_channels, *x.shape[2:])
        return x + self.conv_out(out)

    def _affinity(self, theta: Tensor, phi: Tensor) -> Affinity:
        query, key = self._nodes(theta), self._nodes(phi)
        scale = query.shape[1] ** -0.5 if self.use_scale else 1.0
        return CompactAffinity(query, key, tuple(scale * c for c in self.coefficients))

    def _nodes(self, positions: Tensor) -> Tensor:
        """(B, N, C') -> (B G, C'/G N, 1), the channels of a group one after another."""
        return transposed(positions).reshape(positions.shape[0] * self.groups, -1, 1)


def taylor_coefficients(order: int, gamma: float) -> tuple[float, ...]:
    """``exp(-2γ) (2γ)^k / k!`` for k = 0 .. order."""
    return tuple(
        math.exp(-2 * gamma) * (2 * gamma) ** k / math.factorial(k)
        for k in range(order + 1)
    )
