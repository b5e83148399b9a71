# Copyright (c) The nl_plugins authors. All rights reserved.
"""What the modules of a network return, found without computing anything."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from .layout import split_output, token_grid


@dataclass
class Seen:
    """What a probing forward saw of one module.

    Attributes:
        calls (int): How often it ran.
        shape (tuple[int], optional): Shape of its feature map; None if its output
            has none or several.
        grid (tuple[int], optional): (H, W) of a token map (B, L, C), if known.
    """

    calls: int = 0
    shape: tuple[int, ...] | None = None
    grid: tuple[int, int] | None = None

    def record(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """The forward hook."""
        self.calls += 1
        split = split_output(output)
        if split is None:
            self.shape = None
            return
        features, rest = split
        self.shape = tuple(features.shape)
        if features.ndim == 3:
            sources = (*rest, rest, *args, *kwargs.values())
            self.grid = token_grid(features.shape[1], *sources)


@dataclass
class Probe:
    """The outcome of :func:`probe`: by module name, or nothing and the reason."""

    seen: dict[str, Seen] = field(default_factory=dict)
    error: str = ''


def probe(
    backbone: nn.Module, names: Iterable[str], num_segments: Iterable[int] = ()
) -> Probe:
    """Run the backbone once on the meta device, which computes only shapes.

    Parameters and buffers are replaced for the duration of the call, so nothing in
    the backbone changes.

    Args:
        backbone (nn.Module): Takes images (B, C, H, W) or clips (B, C, T, H, W).
        names (Iterable[str]): Modules to look at.
        num_segments (Iterable[int]): Frames per clip, which must divide the batch.
    """
    tensors = {
        name: tensor.to('meta')
        for name, tensor in (*backbone.named_parameters(), *backbone.named_buffers())
    }
    own = getattr(backbone, 'num_segments', None)
    frames = [n for n in (*num_segments, own) if isinstance(n, int) and n > 0]
    batch = 2 * math.lcm(*frames)
    error = ''
    for shape in _input_shapes(backbone, batch):
        outcome = Probe({name: Seen() for name in names})
        handles = [
            backbone.get_submodule(name).register_forward_hook(
                seen.record, with_kwargs=True
            )
            for name, seen in outcome.seen.items()
        ]
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                functional_call(backbone, tensors, torch.empty(shape, device='meta'))
            return outcome
        # A network may refuse a meta tensor or this size in any way it likes.
        except Exception as failure:
            error = error or f'{type(failure).__name__}: {failure}'
        finally:
            for handle in handles:
                handle.remove()
    return Probe(error=error)


def _input_shapes(backbone: nn.Module, batch: int) -> list[tuple[int, ...]]:
    first = next((m for m in backbone.modules() if isinstance(m, _ConvNd)), None)
    channels = first.in_channels if first is not None else 3
    image = (batch, channels, 224, 224)
    clip = (2, channels, 32, 224, 224)
    named = first if first is not None else backbone
    volumetric = any(type(m).__name__.endswith('3d') for m in named.modules())
    return [clip, image] if volumetric else [image, clip]


def structural_width(module: nn.Module) -> int | None:
    """Output channels by what the module is made of; None where that is unclear."""
    for attribute in ('out_channels', 'out_features', 'num_features', 'num_channels'):
        width = getattr(module, attribute, None)
        if isinstance(width, int):
            return width
    planes, expansion = (getattr(module, name, None) for name in _RESIDUAL)
    if isinstance(planes, int) and isinstance(expansion, int):
        return planes * expansion
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1]
    if isinstance(module, nn.Sequential):
        widths = (structural_width(child) for child in reversed(module))
        return next((width for width in widths if width is not None), None)
    return None


_RESIDUAL = ('planes', 'expansion')
