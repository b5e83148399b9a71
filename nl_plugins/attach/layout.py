# Copyright (c) The nl_plugins authors. All rights reserved.
"""Between the layouts of features and the (B, C, *S) maps that blocks take."""

from __future__ import annotations

from typing import Any

import torch.nn as nn
from torch import Tensor


def frames_to_clip(x: Tensor, num_segments: int) -> Tensor:
    """(N * T, C, H, W) -> (N, C, T, H, W) with T = ``num_segments``, a view.

    Raises:
        ValueError: If the batch is not a multiple of ``num_segments``.
    """
    if x.shape[0] % num_segments:
        raise ValueError(
            f'num_segments={num_segments} does not divide the {x.shape[0]} frames of '
            f'the batch {tuple(x.shape)}: give the number of frames that a clip has at '
            'this layer'
        )
    return x.unflatten(0, (-1, num_segments)).transpose(1, 2)


def clip_to_frames(x: Tensor) -> Tensor:
    """(N, C, T, H, W) -> (N * T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def apply_block(block: nn.Module, x: Tensor, num_segments: int | None = None) -> Tensor:
    """``block(x)``, where a 3D block sees frame-stacked features as clips.

    Args:
        block (nn.Module): A block; without an attribute ``ndim`` it counts as 3D
            when ``num_segments`` is given.
        x (Tensor): (B, C, *S), or (N * T, C, H, W) with ``num_segments`` = T.
        num_segments (int, optional): Frames T of a clip. Defaults to None.

    Returns:
        Tensor: Of the shape of x.
    """
    if num_segments is None or x.ndim != 4 or getattr(block, 'ndim', 3) != 3:
        return block(x)
    return clip_to_frames(block(frames_to_clip(x, num_segments)))


def token_grid(num_tokens: int, *sources: Any) -> tuple[int, int] | None:
    """The first pair (H, W) with ``H * W == num_tokens`` in the sources."""
    for source in sources:
        if isinstance(source, (tuple, list)) and len(source) == 2:
            if not any(isinstance(n, (tuple, list, dict, bool, str)) for n in source):
                height, width = source
                if _is_size(height) and _is_size(width):
                    if int(height * width) == int(num_tokens):
                        return height, width
    return None


def _is_size(value: Any) -> bool:
    # Sizes are int, torch.SymInt (export) or 0-dim tensors (jit.trace).
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.is_floating_point()
    return hasattr(value, '__index__') or type(value).__name__ == 'SymInt'


def split_output(output: Any) -> tuple[Tensor, tuple] | None:
    """The feature map of a module's output and what else it returned, or None.

    A tensor, or a tuple of one tensor first and sizes after it (Swin's stages), has
    one feature map; anything else is ambiguous.
    """
    if isinstance(output, Tensor):
        return output, ()
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        if not any(isinstance(item, Tensor) for item in output[1:]):
            return output[0], output[1:]
    return None
