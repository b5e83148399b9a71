# Copyright (c) The nl_plugins authors. All rights reserved.
"""Video recognition in mmaction2: models, necks, transforms, optimisers."""

from ..registry import require

require('mmaction')

from .inception_i3d import InceptionI3D  # noqa: E402
from .inception_i3d_head import InceptionI3DHead  # noqa: E402
from .resnet3d import C2DResNet3d, NLResNet3d  # noqa: E402

__all__ = ['C2DResNet3d', 'InceptionI3D', 'InceptionI3DHead', 'NLResNet3d']
