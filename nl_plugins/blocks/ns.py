# Copyright (c) The nl_plugins authors. All rights reserved.
"""Nonlocal Neural Networks, Nonlocal Diffusion and Nonlocal Modeling, Tao et al. 2018.

https://arxiv.org/abs/1806.00681
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn as nn
from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, laplacian
from ..graph.lazy import Map
from ..graph.products import mix
from ..options import Count
from .graph_filter import AffinityType, GraphFilterBlock


@MODELS.register_module()
class NSBlock(GraphFilterBlock):
    """``z = x + relu(BN(sign W_z (I - A) g))``: the graph Laplacian as the filter.

    Args:
        sign (int): 1 as in the SNL repository, -1 for the diffusion A g - g of the
            paper. Defaults to 1.
        options: ``symmetric``, ``num_units``, ``act_cfg``, see
            :class:`GraphFilterBlock`, and those of :class:`NonLocalBlock`.
    """

    _abbr_ = 'ns_block'
    variants = {
        'softmax': {},
        'sym_norm': dict(affinity='sym_norm', num_units=2),
        'diffusion': dict(sign=-1, act_cfg=None, symmetric=True),
    }

    def __init__(
        self,
        in_channels: Count,
        *,
        affinity: AffinityType = 'softmax',
        sign: Literal[1, -1] = 1,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, affinity=affinity, **options)
        self.sign = sign
        self.add_units()

    def filter(
        self, affinity: Affinity, values: Map, unit: nn.Module, weight: Tensor
    ) -> Tensor:
        return mix(laplacian(affinity, values), self.sign * weight)
