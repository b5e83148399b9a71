# Copyright (c) The nl_plugins authors. All rights reserved.
"""3D ResNets with the stems of the non-local papers' code."""

import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch.nn as nn
from mmaction.models import ResNet3d
from mmaction.registry import MODELS

from ..options import Cfg, Count, Filled, Natural, Range, checked


@MODELS.register_module()
@checked
class NLResNet3d(ResNet3d):
    """mmaction's ``ResNet3d`` with the stem pooling of video-nonlocal-net.

    The networks of `Non-local Neural Networks <https://arxiv.org/abs/1711.07971>`_
    were published in two forms, neither of which pads ``pool1``:

    ============  ===================  ================  =========================
    frames        ``conv1_stride_t``   ``pool1_kernel``  ``pool1_stride_t``
    ============  ===================  ================  =========================
    32x2, 128x1   2                    (2, 3, 3)         2
    8x8, 32x4     1                    (1, 3, 3)         1
    ============  ===================  ================  =========================

    With 224 x 224 pixels res2 works on 55 x 55 positions; mmaction's padded pool gives
    56 x 56 and never takes the maximum of two frames, so weights trained in one stem
    lose accuracy in the other. The non-local blocks are inserted by
    :class:`NonLocalBackbone`.

    Args:
        depth (int): 18, 34, 50, 101 or 152. Defaults to 50.
        conv1_kernel (tuple[int]): (5, 7, 7) for I3D, (1, 7, 7) for C2D.
            Defaults to (5, 7, 7).
        conv1_stride_t (int): Temporal stride of ``conv1``. Defaults to 2.
        pool1_kernel (tuple[int]): Kernel of ``pool1``. Defaults to (2, 3, 3).
        pool1_stride_t (int): Temporal stride of ``pool1``. Defaults to 2.
        pool1_padding (tuple[int]): Padding of ``pool1``. Defaults to (0, 0, 0).
        **kwargs: Other arguments of ``ResNet3d``.
    """

    passed_on = dict(
        pretrained=str | None,
        pretrained2d=bool,
        in_channels=Count,
        num_stages=Annotated[int, Range(1, 4)],
        base_channels=Count,
        out_indices=Annotated[Sequence[Annotated[int, Range(0, 3)]], Filled()],
        spatial_strides=Sequence[Count],
        temporal_strides=Sequence[Count],
        dilations=Sequence[Count],
        inflate=Annotated[int, Range(0, 1)] | Sequence[Any],
        inflate_style=Literal['3x1x1', '3x3x3'],
        style=Literal['pytorch', 'caffe'],
        frozen_stages=Annotated[int, Range(-1, 4)],
        norm_eval=bool,
        with_cp=bool,
        with_pool1=bool,
        with_pool2=bool,
        conv_cfg=Cfg,
        norm_cfg=Cfg,
        act_cfg=Cfg,
        non_local=Annotated[int, Range(0, 1)] | tuple[Any, Any, Any, Any],
    )

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101, 152] = 50,
        *,
        conv1_kernel: tuple[Count, Count, Count] = (5, 7, 7),
        conv1_stride_t: Count = 2,
        pool1_kernel: tuple[Count, Count, Count] = (2, 3, 3),
        pool1_stride_t: Count = 2,
        pool1_padding: tuple[Natural, Natural, Natural] = (0, 0, 0),
        **kwargs,
    ) -> None:
        super().__init__(
            depth,
            conv1_kernel=conv1_kernel,
            conv1_stride_t=conv1_stride_t,
            pool1_stride_t=pool1_stride_t,
            **kwargs,
        )
        self.maxpool = nn.MaxPool3d(
            tuple(pool1_kernel), self.maxpool.stride, tuple(pool1_padding)
        )

    def train(self, mode: bool = True) -> 'NLResNet3d':
        """Training mode, but for frozen stages and, if ``norm_eval``, norms."""
        super().train(mode)
        return self


@MODELS.register_module()
@checked
class C2DResNet3d(NLResNet3d):
    """C2D ResNet of the non-local paper: no kernel spans two frames, pools do.

    With one ``NLBlock`` after ``layer3.4`` it is the network that the 3D experiment of
    tea1528/Non-Local-NN-Pytorch describes, and takes its weights. As published that
    network cannot learn from video: the first convolutions of its last three stages
    sample every second frame of a map padded with two empty frames on both sides,
    which skips real frames in favour of empty ones.

    Args:
        depth (int): 50, 101 or 152. Defaults to 50.
        legacy (bool): Use the layout as published, with a warning: 3x3x3 and 3x1x1
            pools without padding, temporal stride 2 and temporal padding 2 in the last
            three stages. With 16, 20, 22 or 24 frames its output is the same for every
            input; with 32 frames only frames 16, 18, ..., 28 count.
            Defaults to False.
        **kwargs: Other arguments of :class:`NLResNet3d`.
    """

    def __init__(
        self, depth: Literal[50, 101, 152] = 50, *, legacy: bool = False, **kwargs
    ) -> None:
        options = dict(conv1_kernel=(1, 7, 7), inflate=0)
        if legacy:
            options.update(pool1_kernel=(3, 3, 3), temporal_strides=(1, 2, 2, 2))
        super().__init__(depth, **{**options, **kwargs})
        self.legacy = legacy
        if legacy:
            warnings.warn(
                'C2DResNet3d(legacy=True) reproduces a published layout that pads time '
                'with empty frames and then samples them: with 16, 20, 22 or 24 frames '
                'its output does not depend on the input at all, with 32 frames only '
                'on frames 16 to 28. Use it to load old weights, never to train'
            )
            self.pool2 = nn.MaxPool3d((3, 1, 1), (2, 1, 1))
            for stage in (self.layer2, self.layer3, self.layer4):
                stage[0].conv2.conv.padding = (2, 1, 1)
                stage[0].downsample.conv.padding = (2, 0, 0)
