# Copyright (c) The nl_plugins authors. All rights reserved.
"""Adapter for mmdetection: the neck."""

from ..registry import require

require('mmdet')

from .neck import NonLocalNeck  # noqa: E402

__all__ = ['NonLocalNeck']
