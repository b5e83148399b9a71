# Copyright (c) The nl_plugins authors. All rights reserved.
"""The backbones that blocks are inserted into: as published, and cut short."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn as nn
from mmengine.registry import MODELS
from mmengine.registry.default_scope import DefaultScope

IMAGE, CLIP = (2, 3, 32, 32), (2, 3, 4, 32, 32)
NL, NL3D = dict(type='NLBlock'), dict(type='NLBlock', ndim=3)
GATE, RNL = dict(type='ChannelGate', ndim=3), dict(type='RNLBlock', ndim=3)


@dataclass(frozen=True)
class Network:
    """A backbone config of a codebase, where blocks go, and an input size."""

    scope: str
    backbone: dict
    inserts: list
    shape: tuple

    def build(self, blocks: bool = True, **options) -> nn.Module:
        """The network with blocks, or the bare one."""
        pytest.importorskip(self.scope)
        cfg = {**copy.deepcopy(self.backbone), **options}
        if blocks:
            inserts = copy.deepcopy(self.inserts)
            cfg = dict(type='NonLocalBackbone', backbone=cfg, inserts=inserts)
        return build(self.scope, cfg)

    def input(self) -> torch.Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))


def build(scope: str, cfg: dict) -> nn.Module:
    """Build as a runner with ``default_scope = scope`` does."""
    with DefaultScope.overwrite_default_scope(scope):
        with MODELS.switch_scope_and_registry(None) as registry:
            return registry.build(cfg)


def blocks_of(backbone: nn.Module) -> dict[str, nn.Module]:
    """The inserted blocks by their full names."""
    names = ['.'.join(pair) for pair in backbone.inserted_blocks]
    return {name: backbone.get_submodule(name) for name in names}


def features(backbone: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of a backbone as a list."""
    out = backbone(x)
    return list(out) if isinstance(out, (tuple, list)) else [out]


def wake(backbone: nn.Module) -> nn.Module:
    """Give zero-initialised blocks small weights, so that they act."""
    generator = torch.Generator().manual_seed(1)
    for block in blocks_of(backbone).values():
        for parameter in block.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(0.1 * noise)
    return backbone


_RESNET = dict(norm_cfg=dict(type='BN'), norm_eval=False)
_VIDEO = dict(pretrained=None)

#: The backbones as their codebases ship them.
STOCK = {
    'mmpretrain-resnet50': Network(
        'mmpretrain',
        dict(type='ResNet', depth=50),
        [dict(after=['layer3.1', 'layer3.5'], cfg=NL)],
        IMAGE,
    ),
    'mmpretrain-convnext-tiny': Network(
        'mmpretrain',
        dict(type='ConvNeXt', arch='tiny'),
        [dict(after=['stages.2.3', 'stages.2'], cfg=NL)],
        IMAGE,
    ),
    'mmpretrain-swin-tiny': Network(
        'mmpretrain',
        dict(type='SwinTransformer', arch='tiny', img_size=32, pad_small_map=True),
        [dict(after=['stages.1.blocks.1', 'stages.2'], cfg=NL)],
        (2, 3, 32, 64),
    ),
    'mmseg-resnetv1c50-d8': Network(
        'mmseg',
        dict(
            type='ResNetV1c',
            depth=50,
            strides=(1, 2, 1, 1),
            dilations=(1, 1, 2, 4),
            contract_dilation=True,
            **_RESNET,
        ),
        [dict(after=['layer3.1', 'layer3'], cfg=NL)],
        IMAGE,
    ),
    'mmseg-resnetv1c18': Network(
        'mmseg',
        dict(type='ResNetV1c', depth=18, **_RESNET),
        [dict(after='layer3.1', cfg=[NL, NL])],
        IMAGE,
    ),
    'mmaction-i3d': Network(
        'mmaction',
        dict(
            type='ResNet3d',
            depth=50,
            conv1_kernel=(5, 7, 7),
            conv1_stride_t=2,
            pool1_stride_t=2,
            inflate=((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0)),
            **_VIDEO,
        ),
        [dict(after=['layer2.1', 'layer3.5'], cfg=NL3D)],
        (2, 3, 8, 32, 32),
    ),
    'mmaction-slowonly': Network(
        'mmaction',
        dict(type='ResNet3dSlowOnly', depth=50, **_VIDEO),
        [dict(after=['layer2.1', 'layer3.5'], cfg=NL3D)],
        CLIP,
    ),
    'mmaction-tsm': Network(
        'mmaction',
        dict(type='ResNetTSM', depth=50, num_segments=4, pretrained2d=False, **_VIDEO),
        [
            dict(after='layer2.0', num_segments=4, cfg=[GATE, RNL]),
            dict(after=['layer3.0', 'layer3.4'], num_segments=4, cfg=RNL),
        ],
        (8, 3, 32, 32),
    ),
    'mmaction-c2d': Network(
        'mmaction',
        dict(type='C2D', depth=50, **_VIDEO),
        [dict(after=['layer2.1', 'layer3.5'], num_segments=2, cfg=NL3D)],
        (2, 3, 4, 32, 32),
    ),
}

_TWO = dict(num_stages=2, out_indices=(1,), strides=(1, 2), dilations=(1, 1))
_TWO_3D = dict(
    num_stages=2,
    out_indices=(1,),
    spatial_strides=(1, 2),
    temporal_strides=(1, 1),
    dilations=(1, 1),
)
_SECOND_STAGE = ['layer1.1', 'layer2']


def _short(name: str, inserts: list, **changes) -> Network:
    stock = STOCK[name]
    shape = changes.pop('shape', stock.shape)
    return Network(stock.scope, {**stock.backbone, **changes}, inserts, shape)


#: The same classes cut to two stages, for what is slow in deep networks.
SHORT = {
    'mmpretrain-resnet': _short(
        'mmpretrain-resnet50', [dict(after=_SECOND_STAGE, cfg=NL)], **_TWO
    ),
    'mmpretrain-convnext': _short(
        'mmpretrain-convnext-tiny',
        [dict(after=['stages.0.0', 'stages.1'], cfg=NL)],
        arch=dict(depths=[1, 2], channels=[16, 32]),
        out_indices=(1,),
    ),
    'mmpretrain-swin': _short(
        'mmpretrain-swin-tiny',
        [dict(after=['stages.0.blocks.1', 'stages.0', 'stages.1.blocks.0'], cfg=NL)],
        arch=dict(embed_dims=24, depths=[2, 1], num_heads=[2, 4]),
        out_indices=(1,),
        window_size=4,
    ),
    'mmseg-resnetv1c50-d8': _short(
        'mmseg-resnetv1c50-d8',
        [dict(after=_SECOND_STAGE, cfg=NL)],
        **{**_TWO, 'strides': (1, 1), 'dilations': (1, 2)},
    ),
    'mmseg-resnetv1c18': _short(
        'mmseg-resnetv1c18', [dict(after=_SECOND_STAGE, cfg=[NL, NL])], **_TWO
    ),
    'mmaction-i3d': _short(
        'mmaction-i3d',
        [dict(after=_SECOND_STAGE, cfg=NL3D)],
        depth=18,
        inflate=(1, 1),
        **_TWO_3D,
    ),
    'mmaction-slowonly': _short(
        'mmaction-slowonly',
        [dict(after=_SECOND_STAGE, cfg=NL3D)],
        inflate=(0, 0),
        **_TWO_3D,
    ),
    'mmaction-tsm': _short(
        'mmaction-tsm',
        [dict(after=_SECOND_STAGE, num_segments=4, cfg=[GATE, RNL])],
        depth=18,
    ),
    'mmaction-c2d': _short(
        'mmaction-c2d',
        [dict(after='layer2.1', num_segments=2, cfg=NL3D)],
        depth=18,
        **_TWO,
    ),
}
