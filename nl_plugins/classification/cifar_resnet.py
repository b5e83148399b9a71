# Copyright (c) The nl_plugins authors. All rights reserved.
"""The thin residual network for CIFAR (He et al. 2016, sec. 4.2)."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch.nn.functional as F
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..options import Cfg, Count, checked
from .cifar_stages import CIFARStages, FrozenStages, OutIndices


class _SubsampleAndPad(nn.Module):
    """Option A: every second row and column, new channels are zero on both sides."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        new = channels - in_channels
        self.pad = (new // 2, new - new // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, *self.pad))


class CIFARBasicBlock(BaseModule):
    """conv3x3 - BN - ReLU - conv3x3 - BN, plus the shortcut, ReLU."""

    def __init__(
        self, in_channels, channels, stride, *, shortcut, conv_cfg, norm_cfg
    ) -> None:
        super().__init__()
        self.out_channels = channels
        conv = partial(build_conv_layer, conv_cfg, bias=False)
        norm = partial(build_norm_layer, norm_cfg)
        self.conv1 = conv(in_channels, channels, 3, stride=stride, padding=1)
        self.bn1 = norm(channels)[1]
        self.conv2 = conv(channels, channels, 3, padding=1)
        self.bn2 = norm(channels)[1]
        self.shortcut = None
        if stride != 1 or in_channels != channels:
            self.shortcut = (
                _SubsampleAndPad(in_channels, channels, stride)
                if shortcut == 'A'
                else nn.Sequential(
                    conv(in_channels, channels, 1, stride=stride), norm(channels)[1]
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


@MODELS.register_module()
@checked
class CIFARResNet(CIFARStages):
    """ResNet for 32x32 images: 3 stages of n basic blocks, widths 16, 32, 64.

    `Deep Residual Learning for Image Recognition
    <https://arxiv.org/abs/1512.03385>`_, sec. 4.2. A network of depth 6n + 2 has one
    3x3 convolution, 6n convolutions in residual blocks and the classifier. With the
    parameter-free shortcut (option A) depths 20, 32, 44, 56, 110 have 0.27, 0.46,
    0.66, 0.85 and 1.73 million parameters with ten classes. Follow it by
    ``GlobalAveragePooling`` and a linear head with ``in_channels=64``.

    Not mmpretrain's ``ResNet_CIFAR``, which is the ImageNet network of width 64 with
    another stem.

    Args:
        depth (int): 6n + 2: 20, 32, 44, 56, 110, 1202, ...
        shortcut (str): ``'A'`` where the shape changes: every second row and column,
            zero channels on both sides, no parameters; ``'B'``: a 1x1 convolution
            and a norm. Defaults to ``'A'``.
        in_channels (int): Channels of the images. Defaults to 3.
        base_channels (int): Width of the first stage. Defaults to 16.
        out_indices (Sequence[int]): Stages to return. Defaults to ``(2, )``.
        frozen_stages (int): Stem and so many stages stay fixed; -1 means none.
            Defaults to -1.
        norm_eval (bool): Whether norms use running statistics in training.
            Defaults to False.
        conv_cfg (dict, optional): Convolution layer. Defaults to None.
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.
        init_cfg (dict | list[dict], optional): Defaults to Kaiming normal, fan_in, on
            convolutions, as the public CIFAR implementations do.

    Raises:
        ValueError: If the depth is not 6n + 2, or an option is outside its choices.
    """

    stem_names = ('conv1', 'bn1')

    def __init__(
        self,
        depth: Count,
        shortcut: Literal['A', 'B'] = 'A',
        in_channels: Count = 3,
        base_channels: Count = 16,
        out_indices: OutIndices = (2,),
        frozen_stages: FrozenStages = -1,
        norm_eval: bool = False,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = None,
        init_cfg: dict | Sequence[dict] | None = (
            dict(type='Kaiming', layer='Conv2d', mode='fan_in', distribution='normal'),
            dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1),
        ),
    ) -> None:
        init_cfg = list(init_cfg) if isinstance(init_cfg, tuple) else init_cfg
        super().__init__(out_indices, frozen_stages, norm_eval, init_cfg)
        num_blocks, rest = divmod(depth - 2, 6)
        if rest or num_blocks < 1:
            raise ValueError(
                'CIFARResNet: depth must be 6n + 2 with n >= 1 (20, 32, 44, 56, 110, '
                f'1202, ...), but got {depth!r}'
            )
        norm_cfg = norm_cfg or dict(type='BN')
        self.depth = depth
        self.conv1 = build_conv_layer(
            conv_cfg, in_channels, base_channels, 3, padding=1, bias=False
        )
        self.bn1 = build_norm_layer(norm_cfg, base_channels)[1]
        block = partial(
            CIFARBasicBlock, shortcut=shortcut, conv_cfg=conv_cfg, norm_cfg=norm_cfg
        )
        self.out_channels = self.make_stages(block, num_blocks, base_channels, 1)
        self._freeze_stages()

    def stem(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))
