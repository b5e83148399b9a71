# Copyright (c) The nl_plugins authors. All rights reserved.
"""Chebyshev filters of any order; order 2 with A² = A is gSNL.

gSNL is from A Spectral Nonlocal Block, Zhu et al. 2019, https://arxiv.org/abs/1911.01059.
"""

from __future__ import annotations

from typing import Any

import torch.nn as nn
from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, chebyshev
from ..graph.lazy import Map
from ..options import Count
from .graph_filter import GraphFilterBlock


@MODELS.register_module()
class ChebyshevNLBlock(GraphFilterBlock):
    """``z = x + relu(BN(Σ_k W_k T_k(A) g))``, k = 0 .. K.

    T_0 = I, T_1 = A, T_k = 2 A T_{k-1} - T_{k-2}. Special cases:

    ================================================== ==============================
    ``order=1``                                        SNLBlock
    ``order=1, zero_order=False``                      the SNL repository's NL block
    ``order=2, stable=True, affinity='softmax'``       gSNL; ``act_cfg=None`` there
    ================================================== ==============================

    ``conv_out`` holds ``[W_0 W_1 ... W_K]`` side by side.

    Args:
        order (int): K. Defaults to 2.
        stable (bool): Take A² = A from order 2 on, as gSNL does, so that A is applied
            once whatever the order. Defaults to False.
        zero_order (bool): Keep the term W_0 g. Defaults to True.
    """

    _abbr_ = 'chebyshev_nl_block'
    variants = {
        'order2': {},
        'order3': dict(order=3, num_units=2),
        'gsnl': dict(order=2, stable=True, affinity='softmax', act_cfg=None),
        'stable_order4': dict(order=4, stable=True),
        'nl_sym_norm': dict(order=1, zero_order=False),
        'nl_softmax': dict(order=1, zero_order=False, affinity='softmax'),
        'nl_relu_raw': dict(
            order=1, zero_order=False, affinity='relu_raw', symmetric=True
        ),
    }

    def __init__(
        self,
        in_channels: Count,
        *,
        order: Count = 2,
        stable: bool = False,
        zero_order: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, **options)
        self.order = order
        self.stable = stable
        self.zero_order = zero_order
        self.num_products = 1 if stable else order
        self.add_units(num_terms=order + zero_order)

    def filter(
        self, affinity: Affinity, values: Map, unit: nn.Module, weight: Tensor
    ) -> Tensor:
        weights = list(weight.split(self.width, dim=1))
        if not self.zero_order:
            weights.insert(0, None)
        if self.stable:
            weights = idempotent(weights)
        return chebyshev(affinity, values, weights)


def idempotent(weights: list[Tensor | None]) -> list[Tensor | None]:
    """[V_0, V_1] with ``V_0 + V_1 A = Σ_k W_k T_k(A)`` for every A with A² = A.

    Eigenvalues of such an A are 0 and 1, so T_k(A) = T_k(0) I + (1 - T_k(0)) A with
    T_k(0) = 1, 0, -1, 0, 1, ...; for gSNL V_0 = W_0 - W_2, V_1 = W_1 + 2 W_2.
    """
    terms = [(k, weight) for k, weight in enumerate(weights) if weight is not None]
    at_zero = [(1, 0, -1, 0)[k % 4] for k, _ in terms]
    return [
        sum(value * weight for value, (_, weight) in zip(at_zero, terms)),
        sum((1 - value) * weight for value, (_, weight) in zip(at_zero, terms)),
    ]
