# Copyright (c) The nl_plugins authors. All rights reserved.
"""Inception-I3D (Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750)."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmaction.registry import MODELS
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor

from ..options import Cfg, Count, checked

# Name, kind and arguments of each layer, in the order of the forward pass:
# convolutions (out_channels, kernel, stride), pools (kernel, stride), Inception
# modules (widths of branch 0; of branch 1, 2: reduction, 3x3x3; of branch 3).
LAYERS = (
    ('conv3d_1a_7x7', 'conv', (64, (7, 7, 7), (2, 2, 2))),
    ('maxpool3d_2a_3x3', 'pool', ((1, 3, 3), (1, 2, 2))),
    ('conv3d_2b_1x1', 'conv', (64, (1, 1, 1), (1, 1, 1))),
    ('conv3d_2c_3x3', 'conv', (192, (3, 3, 3), (1, 1, 1))),
    ('maxpool3d_3a_3x3', 'pool', ((1, 3, 3), (1, 2, 2))),
    ('mixed_3b', 'mixed', (64, 96, 128, 16, 32, 32)),
    ('mixed_3c', 'mixed', (128, 128, 192, 32, 96, 64)),
    ('maxpool3d_4a_3x3', 'pool', ((3, 3, 3), (2, 2, 2))),
    ('mixed_4b', 'mixed', (192, 96, 208, 16, 48, 64)),
    ('mixed_4c', 'mixed', (160, 112, 224, 24, 64, 64)),
    ('mixed_4d', 'mixed', (128, 128, 256, 24, 64, 64)),
    ('mixed_4e', 'mixed', (112, 144, 288, 32, 64, 64)),
    ('mixed_4f', 'mixed', (256, 160, 320, 32, 128, 128)),
    ('maxpool3d_5a_2x2', 'pool', ((2, 2, 2), (2, 2, 2))),
    ('mixed_5b', 'mixed', (256, 160, 320, 32, 128, 128)),
    ('mixed_5c', 'mixed', (384, 192, 384, 48, 128, 128)),
)


def same_padding(
    kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> tuple[int, ...]:
    """Zeros around a (T, H, W) map, in the order of ``F.pad``: W, H, T.

    Per axis k - s zeros, the odd one behind. Independent of the input's size, hence
    TensorFlow's SAME only for sizes that the stride divides.
    """
    pads = []
    for k, s in zip(reversed(kernel), reversed(stride)):
        total = max(k - s, 0)
        pads += [total // 2, total - total // 2]
    return tuple(pads)


class SameConvModule(ConvModule):
    """``Conv3d -> norm -> ReLU`` with :func:`same_padding`.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (tuple[int]): (T, H, W).
        stride (tuple[int]): (T, H, W). Defaults to (1, 1, 1).
        norm_cfg (dict): Norm layer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
        *,
        norm_cfg: dict,
    ) -> None:
        pads = same_padding(kernel_size, stride)
        symmetric = pads[::2] == pads[1::2]
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=pads[::-2] if symmetric else 0,
            conv_cfg=dict(type='Conv3d'),
            norm_cfg=norm_cfg,
        )
        self.pads = None if symmetric else pads

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, out_channels, T/s, H/s, W/s)."""
        if self.pads:
            x = F.pad(x, self.pads)
        return super().forward(x, activate, norm)


class ZeroPadMaxPool3d(nn.MaxPool3d):
    """Max-pool of a zero-padded map, sizes rounded up.

    The zeros are values, not minus infinity: behind a non-local block, whose output
    may be negative, border maxima are at least zero.
    """

    def __init__(
        self, kernel_size: tuple[int, int, int], stride: tuple[int, int, int]
    ) -> None:
        super().__init__(kernel_size, stride, ceil_mode=True)
        self.pads = same_padding(kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.pads))


class Mixed(BaseModule):
    """Inception module: four branches side by side.

    ::

        branch_0  1x1x1
        branch_1  1x1x1 -> 3x3x3
        branch_2  1x1x1 -> 3x3x3
        branch_3  max-pool 3x3x3 -> 1x1x1

    Args:
        in_channels (int): Channels of the input.
        widths (tuple[int]): Output channels of the six convolutions, in the order of
            the drawing.
        norm_cfg (dict): Norm layers.
    """

    def __init__(
        self, in_channels: int, widths: tuple[int, ...], *, norm_cfg: dict
    ) -> None:
        super().__init__()
        b0, b1_in, b1, b2_in, b2, b3 = widths

        def unit(inputs: int, outputs: int, size: int) -> SameConvModule:
            return SameConvModule(inputs, outputs, (size,) * 3, norm_cfg=norm_cfg)

        self.branch_0 = unit(in_channels, b0, 1)
        self.branch_1 = nn.Sequential(unit(in_channels, b1_in, 1), unit(b1_in, b1, 3))
        self.branch_2 = nn.Sequential(unit(in_channels, b2_in, 1), unit(b2_in, b2, 3))
        self.branch_3 = nn.Sequential(
            ZeroPadMaxPool3d((3, 3, 3), (1, 1, 1)), unit(in_channels, b3, 1)
        )
        self.out_channels = b0 + b1 + b2 + b3

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.branch_0, self.branch_1, self.branch_2, self.branch_3)
        return torch.cat([branch(x) for branch in branches], dim=1)


@MODELS.register_module()
@checked
class InceptionI3D(BaseModule):
    """Inception-I3D of `Quo Vadis, Action Recognition?
    <https://arxiv.org/abs/1705.07750>`_, the backbone of inception-I3D-NON-LOCAL.

    x (B, in_channels, T, H, W) -> (B, 1024, ceil(T/8), H/32, W/32). The two
    non-local blocks of inception-I3D-NON-LOCAL follow ``mixed_3c`` (480 channels) and
    ``mixed_4d`` (512 channels); :class:`NonLocalBackbone` inserts them, see
    ``configs/recognition/_base_/models/inception_i3d_nl.py``.

    Args:
        in_channels (int): 3 for RGB, 2 for optical flow. Defaults to 3.
        norm_cfg (dict): Norm layers.
            Defaults to ``dict(type='BN3d', requires_grad=True)``.
        norm_eval (bool): Keep the norm layers in evaluation mode, their running
            statistics fixed. Defaults to False.
        init_cfg (dict, optional): Initialisation. Defaults to None: the
            convolutions' Kaiming initialisation.

    Raises:
        ValueError: If the input has another number of channels or of axes.
    """

    out_channels = 1024

    def __init__(
        self,
        in_channels: Count = 3,
        norm_cfg: Cfg | None = None,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        norm_cfg = norm_cfg or dict(type='BN3d', requires_grad=True)
        self.in_channels = in_channels
        self.norm_eval = norm_eval
        channels = in_channels
        for name, kind, arguments in LAYERS:
            if kind == 'pool':
                layer = ZeroPadMaxPool3d(*arguments)
            elif kind == 'conv':
                layer = SameConvModule(channels, *arguments, norm_cfg=norm_cfg)
                channels = layer.out_channels
            else:
                layer = Mixed(channels, arguments, norm_cfg=norm_cfg)
                channels = layer.out_channels
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, 1024, ceil(T/8), H/32, W/32)."""
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'InceptionI3D with in_channels={self.in_channels} takes (batch, '
                f'{self.in_channels}, T, H, W), but got {tuple(x.shape)}'
            )
        for name, _, _ in LAYERS:
            x = getattr(self, name)(x)
        return x

    def train(self, mode: bool = True) -> 'InceptionI3D':
        """Training mode, but for the norm layers if ``norm_eval``."""
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self
