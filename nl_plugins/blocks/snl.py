# Copyright (c) The nl_plugins authors. All rights reserved.
"""Unifying Nonlocal Blocks for Neural Networks, Zhu et al., ICCV 2021.

https://arxiv.org/abs/2108.02451
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn as nn
from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, chebyshev
from ..graph.lazy import Map
from ..options import Count
from .graph_filter import GraphFilterBlock


@MODELS.register_module()
class SNLBlock(GraphFilterBlock):
    """``z = x + relu(BN(W_0 g + sign W_1 A g))``: a first-order Chebyshev filter.

    A is symmetric and normalised by its degrees, so that the graph has a Laplacian
    I - A with spectrum in [0, 2]. ``conv_out`` holds ``[W_0 W_1]`` side by side.

    Args:
        sign (int): Sign of the second term: 1 in the classification code, -1 in the
            segmentation code. Defaults to 1.
    """

    _abbr_ = 'snl_block'
    variants = {
        'default': {},
        'segmentation': dict(sign=-1, zeros_init=False),
        'three_units': dict(num_units=3),
        'softmax': dict(affinity='softmax', act_cfg=None),
        'unsymmetric': dict(symmetric=False, norm_cfg=None),
    }

    def __init__(
        self, in_channels: Count, *, sign: Literal[1, -1] = 1, **options: Any
    ) -> None:
        super().__init__(in_channels, **options)
        self.sign = sign
        self.add_units(num_terms=2)

    def filter(
        self, affinity: Affinity, values: Map, unit: nn.Module, weight: Tensor
    ) -> Tensor:
        zeroth, first = weight.chunk(2, dim=1)
        return chebyshev(affinity, values, [zeroth, self.sign * first])
