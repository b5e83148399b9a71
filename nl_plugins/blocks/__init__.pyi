# Copyright (c) The nl_plugins authors. All rights reserved.
# Made by .dev_scripts/stubs.py --write

from collections.abc import Sequence
from typing import Literal

from .base import NonLocalBlock
from .graph_filter import GraphFilterBlock

__all__ = (
    'BLOCKS',
    'NonLocalBlock',
    'A2Block',
    'ANLBlock',
    'ARMANLBlock',
    'CayleyNLBlock',
    'CCBlock',
    'CGNLBlock',
    'ChannelGate',
    'ChebyshevNLBlock',
    'DNLBlock',
    'NLBlock',
    'NSBlock',
    'RNLBlock',
    'SNLBlock',
)

BLOCKS: dict[str, type[NonLocalBlock]]

class A2Block(GraphFilterBlock):
    def __init__(
        self,
        in_channels: int,
        *,
        definition: Literal['a2net', 'snl'] = 'a2net',
        affinity: Literal['softmax', 'relu_raw', 'sym_norm'] = 'relu_raw',
        symmetric: bool | None = None,
        num_units: int = 1,
        bias: bool = True,
        norm_cfg: dict | None = {'type': 'BN'},
        act_cfg: dict | None = None,
        init: Literal[
            'normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch'
        ] = 'kaiming_fan_out',
        ndim: Literal[1, 2, 3] = 2,
        reduction: int = 2,
        conv_cfg: dict | None = None,
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None: ...

class ANLBlock(NonLocalBlock):
    def __init__(
        self,
        in_channels: int,
        *,
        pool_sizes: Sequence[int] = (1, 3, 6, 8),
        key_bias: bool = True,
        theta_norm_cfg: dict | None = None,
        fusion: Literal['add', 'concat'] = 'add',
        norm_cfg: dict | None = {'type': 'BN'},
        init: Literal[
            'normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch'
        ] = 'kaiming_fan_out',
        ndim: Literal[1, 2, 3] = 2,
        reduction: int = 2,
        conv_cfg: dict | None = None,
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None: ...

class ARMANLBlock(GraphFilterBlock):
    def __init__(
        self,
        in_channels: int,
        *,
        num_iterations: int = 2,
        num_stacks: int = 1,
        nonlinear: bool = True,
        affinity: Literal['softmax', 'relu_raw', 'sym_norm'] = 'sym_norm',
        symmetric: bool | None = None,
        num_units: int = 1,
        bias: bool = False,
        norm_cfg: dict | None = {'type': 'BN'},
        act_cfg: dict | None = {'type': 'ReLU'},
        init: Literal[
            'normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch'
        ] = 'kaiming_fan_out',
        ndim: Literal[1, 2, 3] = 2,
        reduction: int = 2,
        conv_cfg: dict | None = None,
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None: ...

class CCBlock(NonLocalBlock):
    def __init__(
        self,
        in_channels: int,
        *,
        ndim: Literal[2, 3] = 2,
        reduction: int = 8,
        recurrence: int = 2,
        shared: bool = True,
        init: Literal[
            'normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch'
        ] = 'pytorch',
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None: ...

class CGNLBlock(NonLocalBlock):
    def __init__(
        self,
        in_channels: int,
        *,
        kernel: Literal['dot', 'rbf'] = 'dot',
        order: int = 3,
        gamma: float = 0.0001,
        groups: int = 8,
        use_scale: bool = False,
        norm_cfg: dict | None = {'type': 'GN'},
        ndim: Literal[1, 2, 3] = 2,
        reduction: int = 2,
        conv_cfg: dict | None = None,
        init: Literal[
            'normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch'
        ] = 'normal',
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None: ...

class CayleyNLBlock(GraphFilterBlock):
    def __init__(
        self,
        in_channels: int,
        *,
        rational: bool = False,
        order: int = 1,
        zoom: float = 1.0,
        affinity: Literal['softmax', 'relu_raw', 'sym_norm'] = 'sym_norm',
        symmetric: bool | None = None,
        num_units: int = 1,
        bias: bool = False,
        norm_cfg: dict | None = {'type': 'BN'},
        act_cfg: dict | None = {'type': 'ReLU'},
        init: Literal[
            'normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch'
        ] = 'kaiming_fan_out',
        ndim: Literal[1, 2, 3] = 2,
        reduction: int = 2,
        conv_cfg: dict | None = None,
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None: ...

class ChannelGate(NonLocalBlock):
    def __init__(
        self,
        in_channels: int,
        *,
        kind: Literal['gc', 'se'] = 'gc',
        norm_cfg: dict | None = {'type': 'BN1d', 'momentum': 0.01},
        init: Literal[
            'normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch'
        ] = 'pytorch',
        ndim: Literal[1, 2, 3] = 2,
        reduction: int = 2,
        conv_cfg: dict | None = None,
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None: ...

class ChebyshevNLBlock(GraphFilterBlock):
    def __init__(
        self,
        in_channels: int,
        *,
        order: int = 2,
        stable: bool = False,
        zero_order: bool = True,
        affinity: Literal['softmax', 'relu_raw', 'sym_norm'] = 'sym_norm',
        symmetric: bool | None = None,
        num_units: int = 1,
        bias: bool = False,
        norm_cfg: dict | None = {'type': 'BN'},
        act_cfg: dict | None = {'type': 'ReLU'},
        init: Literal[
            'normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch'
        ] = 'kaiming_fan_out',
        ndim: Literal[1, 2, 3] = 2,
        reduction: int = 2,
        conv_cfg: dict | None = None,
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None: ...

class DNLBlock(GraphFilterBlock):
    def __init__(
        self,
        in_channels: int,
        *,
        definition: Literal['disentangled', 'snl'] = 'disentangled',
        mode: Literal[
            'gaussian', 'embedded_gaussian', 'dot_product', 'concatenation'
        ] = 'embedded_gaussian',
        use_scale: Literal[False, True, 'inverted'] = True,
        temperature: float = 0.05,
        affinity: Literal['softmax', 'relu_raw', 'sym_norm'] = 'softmax',
        symmetric: bool | None = None,
        num_units: int = 1,
        bias: bool = True,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init: Literal[
            'normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch'
        ] = 'mmcv',
        ndim: Literal[1, 2, 3] = 2,
        reduction: int = 2,
        conv_cfg: dict | None = None,
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None: ...

class NLBlock(NonLocalBlock):
    def __init__(
        self,
        in_channels: int,
        *,
        mode: Literal[
            'gaussian', 'embedded_gaussian', 'dot_product', 'concatenation'
        ] = 'embedded_gaussian',
        use_scale: Literal[False, True, 'inverted'] = True,
        sub_sample: bool = False,
        sub_sample_order: Literal['conv_pool', 'pool_conv'] = 'conv_pool',
        bias: bool = True,
        out_bias: bool | None = None,
        concat_bias: bool = False,
        act_cfg: dict | None = None,
        init: Literal[
            'normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch'
        ] = 'mmcv',
        ndim: Literal[1, 2, 3] = 2,
        reduction: int = 2,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None: ...

class NSBlock(GraphFilterBlock):
    def __init__(
        self,
        in_channels: int,
        *,
        affinity: Literal['softmax', 'relu_raw', 'sym_norm'] = 'softmax',
        sign: Literal[1, -1] = 1,
        symmetric: bool | None = None,
        num_units: int = 1,
        bias: bool = False,
        norm_cfg: dict | None = {'type': 'BN'},
        act_cfg: dict | None = {'type': 'ReLU'},
        init: Literal[
            'normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch'
        ] = 'kaiming_fan_out',
        ndim: Literal[1, 2, 3] = 2,
        reduction: int = 2,
        conv_cfg: dict | None = None,
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None: ...

class RNLBlock(NonLocalBlock):
    def __init__(
        self,
        in_channels: int,
        *,
        kernel_size: int | Sequence[int] = 3,
        activation: Literal['softmax', 'relu'] = 'softmax',
        use_norm: bool = False,
        sub_sample: bool = False,
        out_bias: bool = True,
        norm_cfg: dict | None = {'type': 'BN'},
        init: Literal[
            'normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch'
        ] = 'pytorch',
        ndim: Literal[1, 2, 3] = 2,
        reduction: int = 2,
        conv_cfg: dict | None = None,
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None: ...

class SNLBlock(GraphFilterBlock):
    def __init__(
        self,
        in_channels: int,
        *,
        sign: Literal[1, -1] = 1,
        affinity: Literal['softmax', 'relu_raw', 'sym_norm'] = 'sym_norm',
        symmetric: bool | None = None,
        num_units: int = 1,
        bias: bool = False,
        norm_cfg: dict | None = {'type': 'BN'},
        act_cfg: dict | None = {'type': 'ReLU'},
        init: Literal[
            'normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch'
        ] = 'kaiming_fan_out',
        ndim: Literal[1, 2, 3] = 2,
        reduction: int = 2,
        conv_cfg: dict | None = None,
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None: ...
