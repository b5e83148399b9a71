# Copyright (c) The nl_plugins authors. All rights reserved.
# ruff: noqa: E402  the codebase is checked before anything imports it
"""mmpretrain: CIFAR networks, a neck, a head, data sets and a data preprocessor."""

from ..registry import require

require('mmpretrain')

from .batch_augment import BatchAugmentDataPreprocessor
from .check_run import CheckRunHook
from .cifar import CIFAR10Subset, CIFAR100Subset
from .cifar_resnet import CIFARResNet
from .dropout_head import LinearDropoutClsHead
from .list_file import ListFileDataset
from .neck import NonLocalNeck
from .preresnet import PreResNet

__all__ = [
    'BatchAugmentDataPreprocessor',
    'CIFAR100Subset',
    'CIFAR10Subset',
    'CIFARResNet',
    'CheckRunHook',
    'LinearDropoutClsHead',
    'ListFileDataset',
    'NonLocalNeck',
    'PreResNet',
]
