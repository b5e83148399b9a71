# Copyright (c) The nl_plugins authors. All rights reserved.
"""Adapter for mmsegmentation: decode heads, neck, data set and checks."""

from ..registry import require

require('mmseg')

from .datasets import CamVidDataset  # noqa: E402
from .decode_heads import CGNLHead, NonLocalHead, RNLHead, SNLHead  # noqa: E402
from .hooks import SegDataCheckHook  # noqa: E402
from .necks import NonLocalNeck  # noqa: E402

__all__ = [
    'CGNLHead',
    'CamVidDataset',
    'NonLocalHead',
    'NonLocalNeck',
    'RNLHead',
    'SNLHead',
    'SegDataCheckHook',
]
