# Copyright (c) The nl_plugins authors. All rights reserved.
"""What a video network knows about the order of frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
import torch.nn as nn
from torch import Tensor

FrameOrder = Literal['in_order', 'reversed', 'shuffled', 'repeated']


@contextmanager
def frame_order(
    model: nn.Module, how: FrameOrder, num_frames: int | None = None, seed: int = 0
) -> Iterator[None]:
    """Give a video network's backbone the frames of every clip in another order.

    ============  ==================================================
    ``in_order``  t = 0, 1, ... T - 1
    ``reversed``  T - 1, ... 1, 0
    ``shuffled``  a random permutation of each clip, never the order
    ``repeated``  the middle frame, T times
    ============  ==================================================

    A network that gives the same scores in any order knows nothing of it; what is left
    when one frame is repeated is the part of the task that a picture answers::

        with frame_order(runner.model, 'reversed'):
            runner.test()

    Args:
        model (nn.Module): Has a ``backbone``, which takes (B, C, T, H, W), or stacked
            frames (B T, C, H, W).
        how (str): One of the table.
        num_frames (int, optional): T of stacked frames; None means the ``num_segments``
            of the backbone or of a module in the model. Defaults to None.
        seed (int): Of the permutations, which repeat from context to context.
            Defaults to 0.

    Raises:
        ValueError: If ``how`` is outside its choices, the model has no backbone, T of
            stacked frames is unknown or does not divide their number, or a clip has one
            frame or is optical flow (its direction would have to turn, too).
    """
    if how not in get_args(FrameOrder):
        raise ValueError(f'how must be one of {get_args(FrameOrder)}, but got {how!r}')
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        raise ValueError('frame_order needs a model with a backbone')
    generator = torch.Generator().manual_seed(seed)

    def reorder(module: nn.Module, args: tuple) -> tuple:
        x, *others = args
        if x.ndim == 5:
            x = _ordered(x, 2, how, generator)
        else:
            frames = _segments(model) if num_frames is None else num_frames
            if len(x) % frames:
                raise ValueError(
                    f'{len(x)} stacked frames are no clips of {frames} frames: give '
                    'num_frames'
                )
            clips = x.unflatten(0, (-1, frames))
            x = _ordered(clips, 1, how, generator).flatten(0, 1)
        return (x, *others)

    handle = backbone.register_forward_pre_hook(reorder)
    try:
        yield
    finally:
        handle.remove()


def _segments(model: nn.Module) -> int:
    found = {
        module.num_segments
        for module in model.modules()
        if isinstance(getattr(module, 'num_segments', None), int)
    }
    if len(found) != 1:
        raise ValueError(
            'the number of frames of a clip is unknown, as modules of the model name '
            f'{sorted(found) or "none"}: give num_frames'
        )
    return found.pop()


def _ordered(x: Tensor, dim: int, how: str, generator: torch.Generator) -> Tensor:
    """Clips (B, ...) with their frames along ``dim`` in another order."""
    length, channels = x.shape[dim], x.shape[3 - dim]
    if length < 2:
        raise ValueError(f'clips of {length} frame have no order')
    if channels not in (1, 3):
        raise ValueError(
            f'frames of {channels} channels are optical flow, which turns its '
            'direction with time: frame_order takes pictures'
        )
    if how == 'in_order':
        return x
    if how == 'reversed':
        return x.flip(dim)
    if how == 'repeated':
        index = torch.full((length,), length // 2, device=x.device)
        return x.index_select(dim, index)
    orders = [_permutation(length, generator).to(x.device) for _ in x]
    return torch.stack([c.index_select(dim - 1, i) for c, i in zip(x, orders)])


def _permutation(length: int, generator: torch.Generator) -> Tensor:
    order = torch.arange(length)
    while torch.equal(order, torch.arange(length)):
        order = torch.randperm(length, generator=generator)
    return order
