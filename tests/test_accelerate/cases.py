# Copyright (c) The nl_plugins authors. All rights reserved.
"""One small module of every accelerated class, in each of its forms."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

import torch
from torch import Tensor, nn

import nl_plugins  # noqa: F401 - its repairs come before mmcv.ops and mmseg.models

ACT = dict(type='ReLU')
NORM = dict(type='BN')


class Case(NamedTuple):
    """A module and what it takes.

    Attributes:
        target (tuple[str, str]): Module and name of the accelerated class.
        make (Callable): Builds the module.
        shapes (tuple): Shapes of its inputs.
        other (tuple): Shapes of inputs of other sizes.
    """

    target: tuple[str, str]
    make: Callable[[], nn.Module]
    shapes: tuple
    other: tuple


def _class(module: str, name: str) -> type:
    return getattr(import_module(module), name)


def _non_local(ndim: int, **options) -> Case:
    def make():
        cls = _class('mmcv.cnn', f'NonLocal{ndim}d')
        return cls(8, zeros_init=False, std=0.3, **options)

    sizes = ((7, 6), (5, 8)) if ndim == 2 else ((12,), (9,)) if ndim == 1 else (
        (3, 4, 5),
        (2, 6, 4),
    )  # fmt: skip
    target = 'mmcv.cnn.bricks.non_local', '_NonLocalNd'
    return Case(target, make, ((2, 8, *sizes[0]),), ((1, 8, *sizes[1]),))


def _disentangled(mode: str) -> Case:
    module = 'mmseg.models.decode_heads.dnl_head'

    def make():
        cls = _class(module, 'DisentangledNonLocal2d')
        return cls(8, temperature=0.5, mode=mode, zeros_init=False, std=0.3)

    target = module, 'DisentangledNonLocal2d'
    return Case(target, make, ((2, 8, 7, 6),), ((1, 8, 5, 8),))


def _self_attention(head: str, name: str, inputs: int = 1, **options) -> Case:
    def make():
        return _class(f'mmseg.models.decode_heads.{head}', name)(**options)

    target = 'mmseg.models.utils.self_attention_block', 'SelfAttentionBlock'
    shapes = ((2, 16, 8, 6),) * inputs, ((1, 16, 10, 8),) * inputs
    if head == 'ocr_head':  # one key a class
        shapes = tuple((first, (*first[:2], 5, 1)) for first, _ in shapes)
    return Case(target, make, *shapes)


def _generalized(attention_type: str, **options) -> Case:
    module = 'mmcv.cnn.bricks.generalized_attention'

    def make():
        return _class(module, 'GeneralizedAttention')(
            16, num_heads=2, attention_type=attention_type, **options
        )

    target = module, 'GeneralizedAttention'
    return Case(target, make, ((2, 16, 7, 6),), ((1, 16, 5, 8),))


MODES = ('gaussian', 'embedded_gaussian', 'dot_product', 'concatenation')
_ATTENTION = dict(channels=8, conv_cfg=None, norm_cfg=NORM, act_cfg=ACT)

CASES = {
    **{f'NonLocal2d {mode}': _non_local(2, mode=mode) for mode in MODES},
    'NonLocal1d': _non_local(1),
    'NonLocal3d sub_sample': _non_local(3, sub_sample=True, norm_cfg=dict(type='BN3d')),
    **{f'DisentangledNonLocal2d {mode}': _disentangled(mode) for mode in MODES},
    'PAM of DAHead': _self_attention('da_head', 'PAM', in_channels=16, channels=4),
    'APNB of ANNHead': _self_attention(
        'ann_head',
        'APNB',
        in_channels=16,
        out_channels=16,
        query_scales=(1,),
        key_pool_scales=(1, 3),
        **_ATTENTION,
    ),
    'AFNB of ANNHead': _self_attention(
        'ann_head',
        'AFNB',
        2,
        low_in_channels=16,
        high_in_channels=16,
        out_channels=16,
        query_scales=(1,),
        key_pool_scales=(1, 3),
        **_ATTENTION,
    ),
    'ObjectAttentionBlock of OCRHead': _self_attention(
        'ocr_head', 'ObjectAttentionBlock', 2, in_channels=16, scale=1, **_ATTENTION
    ),
    'SelfAttentionBlock of ISAHead': _self_attention(
        'isa_head', 'SelfAttentionBlock', in_channels=16, **_ATTENTION
    ),
    'GeneralizedAttention 1111': _generalized('1111'),
    'GeneralizedAttention 1010': _generalized('1010', q_stride=2),
    'GeneralizedAttention 0001': _generalized('0001', kv_stride=1),
    # What the original keeps.
    'GeneralizedAttention 0010': _generalized('0010'),
    'GeneralizedAttention 1101': _generalized('1101'),
}


def build(name: str) -> tuple[nn.Module, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """A module that acts, in evaluation mode, and inputs of two sizes."""
    case = CASES[name]
    torch.manual_seed(0)
    module = case.make()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    for key, value in module.named_buffers():
        if key.endswith('running_var'):
            nn.init.uniform_(value, 0.5, 2)
    inputs, other = (
        tuple(torch.randn(shape) for shape in shapes)
        for shapes in (case.shapes, case.other)
    )
    return module.eval(), inputs, other
