# Copyright (c) The nl_plugins authors. All rights reserved.
"""Cayley filters, and the quadratic filter of that name in the SNL repository.

CayleyNets, Levie et al. 2019, https://arxiv.org/abs/1705.07664; Unifying Nonlocal
Blocks, Zhu et al., ICCV 2021, https://arxiv.org/abs/2108.02451.
"""

from __future__ import annotations

from typing import Any

import torch.nn as nn
from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, cayley, laplacian
from ..graph.lazy import Map, as_tensor
from ..graph.products import concat_channels, mix
from ..options import Count, Positive
from .graph_filter import GraphFilterBlock


@MODELS.register_module()
class CayleyNLBlock(GraphFilterBlock):
    """A second-order filter of the Laplacian L = I - A, or a rational one.

    As in the SNL repository, with values g of half the inner channels::

        z = x + relu(BN(W_1 g + W_2 (W_h g + L² g)))

    With ``rational=True`` a Cayley filter of order r, values of the inner channels::

        z = x + relu(BN(W_0 g + Σ_j (W_2j-1 Re C^j g + W_2j Im C^j g)))
        C = (h L - i I) (h L + i I)^-1

    ``conv_out`` holds the weights side by side.

    Args:
        rational (bool): Which of the two. Defaults to False.
        order (int): r, of the rational filter. Defaults to 1.
        zoom (float): h > 0, of the rational filter. Defaults to 1.

    Raises:
        ValueError: If an option is outside its choices, or the rational filter is asked
            of ``affinity='relu_raw'``, whose spectrum is unbounded.
    """

    _abbr_ = 'cayley_nl_block'
    variants = {
        'polynomial': {},
        'softmax': dict(affinity='softmax', num_units=2),
        'rational': dict(rational=True),
        'rational_order2': dict(rational=True, order=2, zoom=0.5, affinity='softmax'),
    }

    def __init__(
        self,
        in_channels: Count,
        *,
        rational: bool = False,
        order: Count = 1,
        zoom: Positive = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, **options)
        if rational and self.affinity_type == 'relu_raw':
            raise ValueError(
                'CayleyNLBlock: rational=True needs a bounded spectrum, so affinity '
                "must be 'softmax' or 'sym_norm', but got 'relu_raw'"
            )
        self.rational = rational
        self.order = order
        self.zoom = zoom
        # The rational filter chooses between matrix and factors for itself.
        self.num_products = 0 if rational else 2
        if rational:
            self.add_units(num_terms=2 * order + 1)
        else:
            self.add_units(num_terms=2, width=max(self.inner_channels // 2, 1))

    def extend_unit(self, unit: nn.Module) -> None:
        if not self.rational:
            unit.conv_h = self.conv(self.width, self.width, bias=False)

    def filter(
        self, affinity: Affinity, values: Map, unit: nn.Module, weight: Tensor
    ) -> Tensor:
        if self.rational:
            terms = cayley(affinity, values, self.order, self.zoom)
            return mix(concat_channels(*terms), weight)
        first, second = weight.chunk(2, dim=1)
        values = as_tensor(values)
        hidden = laplacian(affinity, laplacian(affinity, values))
        hidden = hidden + self.at_positions(unit.conv_h, values)
        return mix(hidden, second, mix(values, first))
