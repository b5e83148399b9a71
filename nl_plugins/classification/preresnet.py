# Copyright (c) The nl_plugins authors. All rights reserved.
"""The pre-activation residual network of the SNL experiments on CIFAR."""

from functools import partial
from typing import Literal

import torch.nn.functional as F
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..options import Cfg, Count, checked
from .cifar_stages import CIFARStages, FrozenStages, OutIndices


class _PreActivationBlock(BaseModule):
    """Pairs of BN - ReLU - convolution, plus the shortcut of the raw input.

    Args:
        in_channels (int): Channels of the input.
        layers (Sequence[tuple[int, int, int]]): Out channels, kernel size and
            stride of each convolution.
    """

    def __init__(self, in_channels, layers, conv_cfg, norm_cfg) -> None:
        super().__init__()
        conv = partial(build_conv_layer, conv_cfg, bias=False)
        self.num_layers = len(layers)
        self.out_channels = layers[-1][0]
        channels = in_channels
        for i, (width, kernel, stride) in enumerate(layers, 1):
            self.add_module(f'bn{i}', build_norm_layer(norm_cfg, channels)[1])
            layer = conv(channels, width, kernel, stride=stride, padding=kernel // 2)
            self.add_module(f'conv{i}', layer)
            channels = width
        stride = max(stride for _, _, stride in layers)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                conv(in_channels, channels, 1, stride=stride),
                build_norm_layer(norm_cfg, channels)[1],
            )

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i in range(1, self.num_layers + 1):
            out = F.relu(getattr(self, f'bn{i}')(out))
            out = getattr(self, f'conv{i}')(out)
        return out + (x if self.downsample is None else self.downsample(x))


class PreActivationBasicBlock(_PreActivationBlock):
    """BN - ReLU - conv3x3 - BN - ReLU - conv3x3 + shortcut."""

    expansion = 1

    def __init__(self, in_channels, width, stride, *, conv_cfg, norm_cfg) -> None:
        layers = [(width, 3, stride), (width, 3, 1)]
        super().__init__(in_channels, layers, conv_cfg, norm_cfg)


class PreActivationBottleneck(_PreActivationBlock):
    """BN - ReLU - 1x1 - BN - ReLU - 3x3 - BN - ReLU - 1x1 + shortcut."""

    expansion = 4

    def __init__(self, in_channels, width, stride, *, conv_cfg, norm_cfg) -> None:
        layers = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        super().__init__(in_channels, layers, conv_cfg, norm_cfg)


@MODELS.register_module()
@checked
class PreResNet(CIFARStages):
    """Pre-activation ResNet for 32x32 images, as the SNL experiments build it.

    `Unifying Nonlocal Blocks for Neural Networks
    <https://arxiv.org/abs/2108.02451>`_; pre-activation blocks after He et al. 2016,
    `Identity Mappings in Deep Residual Networks <https://arxiv.org/abs/1603.05027>`_.

    3x3 convolution to 16 channels without norm; three stages of widths 16, 32, 64;
    then bn1, ReLU, fc1 (a 1x1 convolution), bn2, ReLU. Follow it by
    ``GlobalAveragePooling`` and a linear head, with dropout 0.5 in the original.

    ``depth`` keeps the original's names, which are not the true depths:

    ===== ========== ================ ================================ ========
    depth block      blocks per stage layers (stem, blocks, classifier) channels
    ===== ========== ================ ================================ ========
    20    basic      3                20                               64
    56    bottleneck 9                83                               256
    110   bottleneck 18               164                              256
    ===== ========== ================ ================================ ========

    A stage passes on the sum before any activation, so an inserted non-local block
    sees the raw residual stream.

    Args:
        depth (int): 20, 56 or 110, see above.
        in_channels (int): Channels of the images. Defaults to 3.
        base_channels (int): Width of the first stage. Defaults to 16.
        out_indices (Sequence[int]): Stages to return; the last one with the tail.
            Defaults to ``(2, )``.
        frozen_stages (int): Stem and so many stages stay fixed (3: the tail too); -1
            means none. Defaults to -1.
        norm_eval (bool): Whether norms use running statistics in training.
            Defaults to False.
        conv_cfg (dict, optional): Convolution layer. Defaults to None.
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.
        init_cfg (dict | list[dict], optional): Defaults to None: PyTorch's own, as
            the original.

    Raises:
        ValueError: If an option is outside its choices.
    """

    stem_names = ('conv',)
    tail_names = ('bn1', 'fc1', 'bn2')
    architectures = {
        20: (PreActivationBasicBlock, 3),
        56: (PreActivationBottleneck, 9),
        110: (PreActivationBottleneck, 18),
    }

    def __init__(
        self,
        depth: Literal[20, 56, 110],
        in_channels: Count = 3,
        base_channels: Count = 16,
        out_indices: OutIndices = (2,),
        frozen_stages: FrozenStages = -1,
        norm_eval: bool = False,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(out_indices, frozen_stages, norm_eval, init_cfg)
        norm_cfg = norm_cfg or dict(type='BN')
        self.depth = depth
        block, num_blocks = self.architectures[depth]
        conv = partial(build_conv_layer, conv_cfg, bias=False)
        self.conv = conv(in_channels, base_channels, 3, padding=1)
        channels = self.make_stages(
            partial(block, conv_cfg=conv_cfg, norm_cfg=norm_cfg),
            num_blocks,
            base_channels,
            block.expansion,
        )
        self.bn1 = build_norm_layer(norm_cfg, channels)[1]
        self.fc1 = conv(channels, channels, 1)
        self.bn2 = build_norm_layer(norm_cfg, channels)[1]
        self.out_channels = channels
        self._freeze_stages()

    def stem(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def tail(self, x: Tensor) -> Tensor:
        x = self.fc1(F.relu(self.bn1(x)))
        return F.relu(self.bn2(x))
