# Copyright (c) The nl_plugins authors. All rights reserved.
"""Between the layouts of features and the (B, C, *S) maps that blocks take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor


class _Running:
    """What the model around a backbone knows of its input."""

    samples: int | None = None
    frames: int = 1
    clip: int | None = None


_running = _Running()


@contextmanager
def samples_of(
    samples: int, frames: int = 1, clip: int | None = None
) -> Iterator[None]:
    """Inside, frame-stacked features hold so many samples, one after the other.

    Args:
        samples (int): Samples in the batch.
        frames (int): Frames of each in the input. Defaults to 1.
        clip (int, optional): How many of them make a clip; fewer than ``frames``
            where a sample holds several crops. Defaults to None, not known.
    """
    before = _running.samples, _running.frames, _running.clip
    _running.samples, _running.frames, _running.clip = samples, frames, clip
    try:
        yield
    finally:
        _running.samples, _running.frames, _running.clip = before


def count_samples(module: nn.Module, args: tuple) -> None:
    """Forward pre-hook of a backbone that is called with a part of the samples."""
    _running.samples = args[0].shape[0]


def clip_of_input() -> int | None:
    """The frames of a clip of the input that :func:`samples_of` told, if it did."""
    return _running.clip


def frames_to_clip(x: Tensor, num_segments: int | str) -> Tensor:
    """(N * T, C, H, W) -> (N, C, T, H, W) with T = ``num_segments``, a view.

    Inside :func:`samples_of` every sample, and every clip that it names, must hold
    whole clips; ``num_segments='input'`` takes the frames of the clips that it names.

    Raises:
        ValueError: If the frames of the batch, of one sample or of one of its clips
            are not a multiple of ``num_segments``; if ``'input'`` is asked of a
            network that nobody told its samples.
    """
    frames, samples = x.shape[0], _running.samples
    if samples and frames % samples:
        samples = None  # called with something else than the recogniser's batch
    in_sample, clip = frames // samples if samples else frames, None
    if samples and _running.clip is not None:
        # Networks that pool frames have fewer here than in the input.
        clip = _running.clip * in_sample // _running.frames
    if num_segments == 'input':
        if not samples:
            raise ValueError(
                "num_segments='input' needs a recogniser of mmaction, which knows the "
                'frames of a sample: give the number of frames that a clip has'
            )
        if clip is None:
            raise ValueError(
                "num_segments='input' does not know the frames of a clip in a test, "
                "whose samples may hold several crops: add 'num_clips' to meta_keys "
                'of PackActionInputs, or give the number'
            )
        num_segments = clip
    whole, whose = in_sample, 'the batch'
    if samples:
        whose = f'one of its {samples} samples'
    if clip is not None and clip != in_sample:
        whole, whose = clip, f'one of the clips of its {samples} samples'
    # A sample of 24 frames and num_clips=3 holds clips of 3 frames, or 3 clips.
    if whole % num_segments and (in_sample // whole) % num_segments:
        raise ValueError(
            f'num_segments={num_segments} does not divide the {whole} frames of '
            f'{whose} {tuple(x.shape)}: give the number of frames that a clip has at '
            "this layer, or num_segments='input' where it differs between training "
            'and test'
        )
    return x.unflatten(0, (-1, num_segments)).transpose(1, 2)


def clip_to_frames(x: Tensor) -> Tensor:
    """(N, C, T, H, W) -> (N * T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def apply_block(
    block: nn.Module, x: Tensor, num_segments: int | str | None = None
) -> Tensor:
    """``block(x)``, where a 3D block sees frame-stacked features as clips.

    Args:
        block (nn.Module): A block; without an attribute ``ndim`` it counts as 3D
            when ``num_segments`` is given.
        x (Tensor): (B, C, *S), or (N * T, C, H, W) with ``num_segments`` = T.
        num_segments (int | str, optional): Frames T of a clip, or ``'input'``.
            Defaults to None.

    Returns:
        Tensor: Of the shape of x.
    """
    if num_segments is None or x.ndim != 4 or getattr(block, 'ndim', 3) != 3:
        return block(x)
    return clip_to_frames(block(frames_to_clip(x, num_segments)))


@dataclass(frozen=True)
class Grid:
    """Where the size of a grid of tokens is read.

    Attributes:
        ndim (int): Its dimensions, 2 or 3.
        source (str): Name of the module that knows it; '' is the followed module.
        start (int, optional): Index of its first number among :func:`sizes_of`.
        axes (tuple[int], optional): Axes of the map that the source returns.
        fixed (tuple[int], optional): The grid of a network with one input size.
    """

    ndim: int
    source: str = ''
    start: int | None = None
    axes: tuple[int, ...] | None = None
    fixed: tuple[int, ...] | None = None

    def read(self, args: tuple, kwargs: dict, output: Any) -> tuple | None:
        """The grid from one call of the source, or None if it is not there."""
        if self.fixed is not None:
            return self.fixed
        if self.axes is not None:
            x, _ = split_output(output)
            return tuple(x.shape[axis] for axis in self.axes)
        sizes = sizes_of(args, kwargs, output)[self.start : self.start + self.ndim]
        return sizes if len(sizes) == self.ndim else None


@dataclass(frozen=True)
class Layout:
    """Which axis of a feature tensor is what.

    Attributes:
        batch (int): Axis of the samples, or of samples x frames.
        channels (int): Axis of the channels.
        positions (tuple[int]): The other axes, in order: (H, W), (T, H, W), or one
            axis of tokens.
        grid (Grid, optional): Of tokens. Defaults to None, the positions are the
            grid.
        extra (int): Class and register tokens, in front of the others.
    """

    batch: int = 0
    channels: int = 1
    positions: tuple[int, ...] = ()
    grid: Grid | None = None
    extra: int = 0

    @property
    def order(self) -> tuple[int, ...]:
        """Axes in the order (B, C, *S)."""
        return (self.batch, self.channels, *self.positions)

    @property
    def ndim(self) -> int:
        """Dimensions of the grid that blocks can see."""
        return self.grid.ndim if self.grid else len(self.positions)

    def fold(self, x: Tensor) -> Tensor:
        """(B, C, *S) without class and register tokens, a view of x."""
        if self.extra:
            axis = self.positions[0]
            x = x.narrow(axis, self.extra, x.shape[axis] - self.extra)
        return x if self._is_plain else x.permute(self.order)

    def unfold(self, y: Tensor, x: Tensor) -> Tensor:
        """y (B, C, *S) in the layout of x, with the class and register tokens of x."""
        if not self._is_plain:
            y = y.permute([self.order.index(axis) for axis in range(len(self.order))])
        if self.extra:
            axis = self.positions[0]
            return torch.cat([x.narrow(axis, 0, self.extra), y], axis)
        # Networks take views of what their own modules return.
        return y.contiguous() if x.is_contiguous() else y

    @property
    def _is_plain(self) -> bool:
        return self.order == tuple(range(len(self.order)))


def _is_size(value: Any) -> bool:
    # Sizes are int, torch.SymInt (export) or 0-dim tensors (jit.trace).
    if isinstance(value, bool):
        return False
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.is_floating_point()
    return hasattr(value, '__index__') or type(value).__name__ == 'SymInt'


def sizes_of(args: tuple, kwargs: dict, output: Any) -> tuple:
    """The whole numbers that a module returned and was given, tuples flattened."""
    returned = output if isinstance(output, (tuple, list)) else ()
    found: list[Any] = []
    for value in (*returned, *args, *kwargs.values()):
        values = value if isinstance(value, (tuple, list)) else (value,)
        if all(_is_size(item) for item in values):
            found.extend(values)
    return tuple(found)


def split_output(output: Any) -> tuple[Tensor, int | None] | None:
    """The one feature map of a module's output and its index there, or None.

    The index is None where the output is the map itself. A tuple or a list may hold
    sizes and other things beside one map; with two maps it is ambiguous.
    """
    if isinstance(output, Tensor):
        return output, None
    if not isinstance(output, (tuple, list)):
        return None
    if any(isinstance(item, (tuple, list)) and _holds_map(item) for item in output):
        return None
    maps = [index for index, item in enumerate(output) if _is_map(item)]
    return (output[maps[0]], maps[0]) if len(maps) == 1 else None


def _is_map(item: Any) -> bool:
    return isinstance(item, Tensor) and item.ndim > 0


def _holds_map(items: Sequence[Any]) -> bool:
    return any(_is_map(item) for item in items)


def join_output(output: Any, x: Tensor, index: int | None) -> Any:
    """``output`` with its feature map replaced by x."""
    if index is None:
        return x
    items = [x if i == index else item for i, item in enumerate(output)]
    if isinstance(output, list):
        return items
    named = hasattr(output, '_fields')
    return type(output)(*items) if named else tuple(items)
