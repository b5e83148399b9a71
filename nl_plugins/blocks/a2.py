# Copyright (c) The nl_plugins authors. All rights reserved.
"""A²-Nets: Double Attention Networks, Chen et al., NeurIPS 2018.

https://arxiv.org/abs/1810.11579
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn as nn
from mmengine.registry import MODELS
from torch import Tensor

from ..graph import Affinity, DotAffinity
from ..graph.lazy import Map, as_tensor
from ..graph.products import transposed
from ..options import Count
from .graph_filter import GraphFilterBlock

# What each definition changes in the defaults of GraphFilterBlock.
_DEFAULTS = {
    'a2net': dict(bias=True, act_cfg=None),
    'snl': dict(affinity='relu_raw'),
}


@MODELS.register_module()
class A2Block(GraphFilterBlock):
    """``z = x + BN(W_z (A g))``; features are gathered, then distributed.

    ``'a2net'``, the paper's: with attention maps B = softmax over positions of φ(x) and
    attention vectors V = softmax over channels of θ(x), ``A = V Bᵀ`` has rank C' and
    rows that sum to 1. ``'snl'``, the SNL repository's: ``A = relu(θ(x)) relu(φ(x))ᵀ``
    or, by the option ``affinity``, one of its normalised forms, and a ReLU after the
    norm. The two are different functions.

    Args:
        definition (str): 'a2net' or 'snl'. Defaults to 'a2net'.
        affinity (str): Of 'snl' alone, see :class:`GraphFilterBlock`; 'relu_raw' there.
        options: ``num_units``, ``bias``, ``act_cfg`` and, for 'snl', ``affinity``
            (default 'relu_raw') and ``symmetric``, see :class:`GraphFilterBlock`, and
            those of :class:`NonLocalBlock`.

    Raises:
        ValueError: If an option is outside its choices, or ``affinity`` or
            ``symmetric`` is given to 'a2net', whose affinity is fixed.
    """

    _abbr_ = 'a2_block'
    defaults = {**_DEFAULTS['snl'], **_DEFAULTS['a2net']}
    variants = {
        'a2net': {},
        'snl': dict(definition='snl'),
        'snl_sym_norm': dict(definition='snl', affinity='sym_norm'),
        'snl_symmetric': dict(definition='snl', symmetric=True, num_units=2),
    }

    def __init__(
        self,
        in_channels: Count,
        *,
        definition: Literal['a2net', 'snl'] = 'a2net',
        **options: Any,
    ) -> None:
        if definition == 'a2net':
            refuse(options, 'A2Block', definition, 'affinity', 'symmetric')
        super().__init__(in_channels, **{**_DEFAULTS[definition], **options})
        self.definition = definition
        self.add_units()

    def pairwise(self, theta: Map, phi: Map) -> Affinity:
        if self.definition == 'snl':
            return super().pairwise(theta, phi)
        # Channel-first, as in memory.
        theta, phi = transposed(as_tensor(theta)), transposed(as_tensor(phi))
        query, key = transposed(theta.softmax(1)), transposed(phi.softmax(2))
        return DotAffinity(query, key, scale=1.0)

    def filter(
        self, affinity: Affinity, values: Map, unit: nn.Module, weight: Tensor
    ) -> Tensor:
        return affinity.apply(values, weight)


def refuse(options: dict, block: str, definition: str, *names: str) -> None:
    """Raise ValueError if one of ``names`` is among the options."""
    for name in names:
        if name in options:
            raise ValueError(
                f'{block}: {name}={options[name]!r} has no effect with '
                f"definition={definition!r}, it is an option of definition='snl'"
            )
