# Copyright (c) The nl_plugins authors. All rights reserved.
"""Video recognition in mmaction2: models, necks, transforms, optimisers."""

from ..registry import require

require('mmaction')

from .clips import install  # noqa: E402
from .crops import FullResThreeCrop, PILCenterCrop, PILResize  # noqa: E402
from .datasets import (  # noqa: E402
    CheckedRawframeDataset,
    CheckedVideoDataset,
    RequireFrames,
)
from .flow import FlowFlip, FlowFolderDecode  # noqa: E402
from .grouped_nl import GroupedNLBlock  # noqa: E402
from .inception_i3d import InceptionI3D  # noqa: E402
from .inception_i3d_head import InceptionI3DHead  # noqa: E402
from .metrics import CrossEntropyMetric  # noqa: E402
from .neck import NonLocalNeck  # noqa: E402
from .optim import InclusiveLinearLR, NonLocalTSMOptimWrapperConstructor  # noqa: E402
from .resnet3d import C2DResNet3d, NLResNet3d  # noqa: E402
from .sampling import (  # noqa: E402
    EvenStartSampleFrames,
    SegmentSampleFrames,
    WindowSampleFrames,
)

install()

__all__ = [
    'C2DResNet3d',
    'CheckedRawframeDataset',
    'CheckedVideoDataset',
    'CrossEntropyMetric',
    'EvenStartSampleFrames',
    'FlowFlip',
    'FlowFolderDecode',
    'FullResThreeCrop',
    'GroupedNLBlock',
    'InceptionI3D',
    'InceptionI3DHead',
    'InclusiveLinearLR',
    'NLResNet3d',
    'NonLocalNeck',
    'NonLocalTSMOptimWrapperConstructor',
    'PILCenterCrop',
    'PILResize',
    'RequireFrames',
    'SegmentSampleFrames',
    'WindowSampleFrames',
]
