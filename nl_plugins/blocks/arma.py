# Copyright (c) The nl_plugins authors. All rights reserved.
"""Graph Neural Networks with Convolutional ARMA Filters, Bianchi et al., TPAMI 2021.

https://arxiv.org/abs/1901.01343
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, arma
from ..graph.lazy import Map
from ..graph.products import mix
from ..options import Count
from .base import matrix
from .graph_filter import GraphFilterBlock


@MODELS.register_module()
class ARMANLBlock(GraphFilterBlock):
    """``z = x + relu(BN(W_z mean_k H^k_T))`` with an autoregressive recursion.

    ``H_0 = g``, ``H_{t+1} = σ(V_a A H_t + V_b g)``; the K stacks have weights V_a, V_b
    of their own. Without σ and for scalars a, b with |a| < 1 the limit is the rational
    filter b (I - a A)^-1 g.

    Args:
        num_iterations (int): T. Defaults to 2.
        num_stacks (int): K. Defaults to 1.
        nonlinear (bool): σ is a ReLU, or nothing. Defaults to True.
    """

    _abbr_ = 'arma_nl_block'
    variants = {
        'default': {},
        'linear': dict(nonlinear=False, num_iterations=3, affinity='softmax'),
        'stacks': dict(num_stacks=2, num_units=2),
    }

    def __init__(
        self,
        in_channels: Count,
        *,
        num_iterations: Count = 2,
        num_stacks: Count = 1,
        nonlinear: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, **options)
        self.num_iterations = num_iterations
        self.num_stacks = num_stacks
        self.nonlinear = nonlinear
        self.num_products = num_iterations * num_stacks
        self.add_units()

    def extend_unit(self, unit: nn.Module) -> None:
        stacked = self.num_stacks * self.width
        unit.recurrent = self.conv(self.width, stacked, bias=False)
        unit.skip = self.conv(self.width, stacked, bias=False)

    def filter(
        self, affinity: Affinity, values: Map, unit: nn.Module, weight: Tensor
    ) -> Tensor:
        def stack(layer: nn.Module, k: int) -> Callable[[Tensor], Tensor] | Tensor:
            own = slice(k * self.width, (k + 1) * self.width)
            weight = matrix(layer)
            if weight is None:
                return lambda hidden: self.at_positions(layer, hidden)[..., own]
            return weight[own]

        activation = torch.relu if self.nonlinear else None
        hidden = sum(
            arma(
                affinity,
                values,
                stack(unit.recurrent, k),
                stack(unit.skip, k),
                self.num_iterations,
                activation,
            )
            for k in range(self.num_stacks)
        )
        return mix(hidden, weight / self.num_stacks)
