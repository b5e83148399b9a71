# Copyright (c) The nl_plugins authors. All rights reserved.
"""The modules of a network that a block can follow, and why it cannot follow others."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn as nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from .layout import Grid, Layout
from .probe import Call, Probe, Run, probe, structural_width

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Most tokens that stand in front of those of the grid: class, distillation, registers.
_MOST_EXTRA = 16


@dataclass(frozen=True)
class Place:
    """A module that a block can follow.

    Attributes:
        name (str): What to write after ``after=``.
        kind (str): Class of the module.
        width (int): Channels of its output, the ``in_channels`` of the block.
        layout (Layout): Of its output.
        grids (tuple[tuple[int]]): Positions (H, W) or (T, H, W) there, one for every
            run of the probe that called it.
        frames (tuple[float]): Frames that the output stacks for one of the input's.
        order (int): How many calls of modules ended before it.
        frozen (bool): Whether its parameters are frozen, and a block would be.
    """

    name: str
    kind: str
    width: int
    layout: Layout
    grids: tuple[tuple[int, ...], ...]
    frames: tuple[float, ...]
    order: int
    frozen: bool

    @property
    def ndim(self) -> int:
        """The ``ndim`` of blocks that see the whole grid."""
        return self.layout.ndim


class Refusal(ValueError):
    """No block can follow a module: the sentence says why."""


class Places:
    """What is known about the modules of one network.

    Args:
        backbone (nn.Module): Any network.
        outcome (Probe): Of that network.
    """

    def __init__(self, backbone: nn.Module, outcome: Probe) -> None:
        self.backbone = backbone
        self.probe = outcome
        self.modules = dict(backbone.named_modules(remove_duplicate=False))
        first = {id(module): name for name, module in backbone.named_modules()}
        self._probed = {name: first[id(m)] for name, m in self.modules.items()}
        self._found: dict[str, Place | Refusal] = {}

    def host(self, asked: str) -> str:
        """Name of the module whose child a block after ``asked`` becomes.

        Raises:
            Refusal: If there is none.
        """
        modules = self.modules
        if not asked or asked not in modules:
            raise Refusal(
                f'{type(self.backbone).__name__} has no module {asked!r}; nearest '
                f'names: {", ".join(_nearest(asked, list(modules)))}'
            )
        name, module = asked, modules[asked]
        # A child of a Sequential would run as one of its layers.
        while type(module).forward is nn.Sequential.forward and len(module):
            last = list(module._modules)[-1]
            name, module = f'{name}.{last}', module[-1]
        if isinstance(module, _CONTAINERS):
            children = ', '.join(f'{name}.{child}' for child in module._modules)
            raise Refusal(
                f'no block can follow {asked!r}, a {type(module).__name__}: it runs '
                f'its children or is never called; follow one of them ({children})'
            )
        return name

    def place(self, name: str) -> Place:
        """The place after a module.

        Raises:
            Refusal: If no block can follow it; the sentence says why, and names a
                module that one can follow.
        """
        found = self._look(name)
        if isinstance(found, Refusal):
            near = self.instead(name)
            remedy = f'; {near!r} works' if near else ''
            raise Refusal(f'{found}{remedy}')
        return found

    def all(self) -> list[Place]:
        """Every place that was seen, in the order in which they run."""
        found = [self._look(name) for name, _ in self.backbone.named_modules() if name]
        places = [one for one in found if isinstance(one, Place)]
        return sorted(places, key=lambda place: place.order)

    @cached_property
    def outer(self) -> list[Place]:
        """The places that are not inside a unit, such as a residual block."""
        places = self.all()
        closed = {place.name for place in places if not self._holds_units(place.name)}
        return [
            place
            for place in places
            if not any(parent in closed for parent in _parents(place.name))
        ]

    def instead(self, name: str) -> str | None:
        """A place near a module: around it, inside it, or else near in the order."""
        calls = self.probe.calls(self._probed.get(name, name))
        places = [place for place in self.outer if max(map(math.prod, place.grids)) > 1]
        order = calls[0][1].order if calls else math.inf
        parts = name.split('.')

        def nearness(place: Place) -> tuple[int, float]:
            other = place.name.split('.')
            shared = next(
                (i for i, (a, b) in enumerate(zip(parts, other)) if a != b),
                min(len(parts), len(other)),
            )
            return -shared, abs(place.order - order)

        return min(places, key=nearness).name if places else None

    def _holds_units(self, name: str) -> bool:
        # Units are modules of one class in a row: residual blocks, layers, stages.
        for module in self.modules[name].modules():
            if not isinstance(module, (nn.Sequential, nn.ModuleList)):
                continue
            kinds = [type(m) for m in module if len(m._modules)]
            kinds = [kind for kind in kinds if not issubclass(kind, _CONTAINERS)]
            if len(kinds) > len(set(kinds)):
                return True
        return False

    def _look(self, name: str) -> Place | Refusal:
        name = self._probed.get(name, name)
        if name not in self._found:
            try:
                self._found[name] = self._examine(name)
            except Refusal as refusal:
                self._found[name] = refusal
        return self._found[name]

    def _examine(self, name: str) -> Place:
        module = self.modules[name]
        kind = type(module).__name__
        self._check_kind(name, module)
        calls = self.probe.calls(name)
        if not calls:
            if not self.probe.complete:
                raise Refusal(
                    f'nothing is known of {name!r}, since a probing forward stopped '
                    f'before it ({self.probe.error})'
                )
            raise Refusal(
                f'no block can follow {name!r}: the backbone never calls it, so the '
                'block would never run'
            )
        if self.probe.count(name) > 1:
            raise Refusal(
                f'no block can follow {name!r}: the backbone calls it '
                f'{self.probe.count(name)} times in one forward, so the block would '
                'run as often'
            )
        if any(call.shape is None for _, call in calls):
            raise Refusal(
                f'no block can follow {name!r}: it does not return one feature map '
                f'but a {calls[0][1].kind} of other things'
            )
        layout = self._layout(name, module, calls)
        grids = []
        for _, call in calls:
            grid = tuple(call.shape[axis] for axis in layout.positions)
            if layout.grid is not None:
                grid = self._grid_at(layout.grid, name, call)
            grids.append(grid)
        parameters = list(module.parameters())
        return Place(
            name,
            kind,
            calls[0][1].shape[layout.channels],
            layout,
            tuple(grids),
            tuple(call.shape[layout.batch] / run.batch for run, call in calls),
            calls[0][1].order,
            bool(parameters) and not any(p.requires_grad for p in parameters),
        )

    def _check_kind(self, name: str, module: nn.Module) -> None:
        kind = type(module).__name__
        if isinstance(module, _CONTAINERS):
            raise Refusal(f'no block can follow {name!r}, a {kind}, but its children')
        if isinstance(module, _NormBase):
            raise Refusal(
                f'no block can follow {name!r}, a {kind}: converting to SyncBN or '
                'fusing it would drop the block'
            )
        parent, _, child = name.rpartition('.')
        if child in _fused(self.modules[parent]):
            raise Refusal(
                f'no block can follow {name!r}, a {kind} that a norm follows: fusing '
                'the two would let the norm act before the block'
            )

    def _layout(
        self, name: str, module: nn.Module, calls: list[tuple[Run, Call]]
    ) -> Layout:
        shapes = [call.shape for _, call in calls]
        shown = ' and '.join(str(shape) for shape in dict.fromkeys(shapes))
        if len({len(shape) for shape in shapes}) > 1 or len(shapes[0]) < 3:
            raise Refusal(
                f'no block can follow {name!r}: it returns {shown}, no feature map'
            )
        axes = range(len(shapes[0]))
        batch = next(
            (
                axis
                for axis in axes
                if all(call.shape[axis] % run.samples == 0 for run, call in calls)
            ),
            None,
        )
        if batch is None:
            raise Refusal(
                f'no block can follow {name!r}: none of the axes of its output {shown} '
                'holds the samples'
            )
        stays = [
            axis
            for axis in axes
            if axis != batch and len({shape[axis] for shape in shapes}) == 1
        ]
        channels = self._channels(module, stays, shapes[0])
        if channels is None:
            raise Refusal(
                f'no block can follow {name!r}: which axis of its output {shown} holds '
                'the channels is not clear'
            )
        positions = tuple(axis for axis in axes if axis not in (batch, channels))
        layout = Layout(batch, channels, positions)
        if len(positions) > 3:
            raise Refusal(
                f'no block can follow {name!r}: its output {shown} has '
                f'{len(positions)} axes of positions'
            )
        if len(positions) == 1:
            grid, extra = self._token_grid(name, layout, calls)
            layout = Layout(batch, channels, positions, grid, extra)
        return layout

    def _channels(
        self, module: nn.Module, stays: Sequence[int], shape: tuple[int, ...]
    ) -> int | None:
        if len(stays) == 1:
            return stays[0]
        # Positions that stay too, as joints do, or a network of one input size.
        for widths in (
            _norm_widths(module),
            _widths(module),
            _norm_widths(self.backbone),
            _widths(self.backbone),
        ):
            fitting = [axis for axis in stays if shape[axis] in widths]
            if len(fitting) == 1:
                return fitting[0]
        return None

    def _token_grid(
        self, name: str, layout: Layout, calls: list[tuple[Run, Call]]
    ) -> tuple[Grid | None, int]:
        """Where the grid of tokens is read and how many tokens precede it."""
        tokens = [call.shape[layout.positions[0]] for _, call in calls]
        at = _start([call.sizes for _, call in calls], tokens)
        if at is not None:
            start, ndim, extra = at
            return Grid(ndim, start=start), extra
        found = []
        for source in self._before(name, calls):
            theirs = [run.calls[source] for run, _ in calls]
            batches = [(call.shape or (0,))[0] for call in theirs]
            if any(
                batch != call.shape[layout.batch]
                for batch, (_, call) in zip(batches, calls)
            ):
                continue
            last = theirs[0].order
            at = _start([call.sizes for call in theirs], tokens)
            if at is not None:
                start, ndim, extra = at
                found.append((extra, -last, Grid(ndim, source, start=start)))
            if len(theirs[0].shape) > 3:
                place = self._look(source)
                extra = isinstance(place, Place) and _extra(
                    [
                        [call.shape[axis] for axis in place.layout.positions]
                        for call in theirs
                    ],
                    tokens,
                )
                if extra is not False and extra is not None:
                    positions = place.layout.positions
                    grid = Grid(len(positions), source, axes=positions)
                    found.append((extra, -last, grid))
        if found:
            extra, _, grid = min(found, key=lambda one: one[:2])
            return grid, extra
        return self._square(calls, tokens)

    def _square(
        self, calls: list[tuple[Run, Call]], tokens: list[int]
    ) -> tuple[Grid | None, int]:
        """The grid of a network that takes square images of one size only."""
        inputs = {run.inputs[0][-2:] for run, _ in calls}
        (height, width), *others = inputs
        if height != width or others or not all(run.own for run, _ in calls):
            return None, 0
        for extra in range(_MOST_EXTRA):
            side = math.isqrt(max(tokens[0] - extra, 0))
            if side > 1 and side * side == tokens[0] - extra and height % side == 0:
                return Grid(2, fixed=(side, side)), extra
        return None, 0

    def _before(self, name: str, calls: list[tuple[Run, Call]]) -> Iterator[str]:
        """Modules that run once, before another, in every run."""
        run, call = calls[0]
        for source, other in run.calls.items():
            if other.order < call.order and self.probe.count(source) == 1:
                if all(
                    source in run.calls and run.calls[source].shape for run, _ in calls
                ):
                    yield source

    def _grid_at(self, grid: Grid, name: str, call: Call) -> tuple[int, ...]:
        if grid.fixed is not None:
            return grid.fixed
        source = call
        if grid.source:
            run = next(run for run in self.probe.runs if run.calls.get(name) is call)
            source = run.calls[grid.source]
        if grid.axes is not None:
            return tuple(source.shape[axis] for axis in grid.axes)
        return tuple(source.sizes[grid.start : grid.start + grid.ndim])


def list_places(
    backbone: nn.Module,
    sizes: Sequence[tuple[int, ...]] = (),
    arguments: dict | None = None,
) -> Places:
    """Probe a network and look at its modules.

    Args:
        backbone (nn.Module): Any network.
        sizes (Sequence[tuple[int]]): Input sizes to try besides, (H, W) or (T, H, W).
        arguments (dict, optional): Those that the backbone was built with.
    """
    return Places(backbone, probe(backbone, (), arguments, sizes))


def _start(
    sizes: list[tuple[Any, ...]], tokens: list[int]
) -> tuple[int, int, int] | None:
    """Where among the sizes the grid begins, its dimensions, and extra tokens."""
    shortest = min(map(len, sizes))
    found = []
    for ndim in (3, 2):
        for start in range(shortest - ndim + 1):
            grids = [list(one[start : start + ndim]) for one in sizes]
            if any(isinstance(n, torch.Tensor) or n < 1 for n in sum(grids, [])):
                continue
            extra = _extra(grids, tokens)
            if extra is not None:
                found.append((extra, start, ndim))
    if not found:
        return None
    extra, start, ndim = min(found)
    return start, ndim, extra


def _extra(grids: list[list[int]], tokens: list[int]) -> int | None:
    """How many tokens are left over; None if that differs or is no small number."""
    rest = {n - math.prod(grid) for grid, n in zip(grids, tokens)}
    (extra, *others) = rest
    return extra if not others and 0 <= extra <= _MOST_EXTRA else None


def _norm_widths(module: nn.Module) -> set[int]:
    widths = set()
    for m in module.modules():
        if isinstance(m, nn.LayerNorm):
            widths.add(m.normalized_shape[-1])
        elif isinstance(m, _NormBase):
            widths.add(m.num_features)
        elif isinstance(m, nn.GroupNorm):
            widths.add(m.num_channels)
    return widths


def _widths(module: nn.Module) -> set[int]:
    return {
        width
        for m in module.modules()
        if not m._modules and (width := structural_width(m)) is not None
    }


def _fused(parent: nn.Module) -> set[str]:
    """Convolutions that mmcv's, mmengine's and torch's fusing join with a norm."""
    fused, last = set(), None
    for name, child in parent.named_children():
        if isinstance(child, _BatchNorm):
            if last is not None:
                fused.add(last)
            last = None
        elif isinstance(child, nn.modules.conv._ConvNd):
            last = name
    return fused


def _parents(name: str) -> Iterator[str]:
    parts = name.split('.')
    return ('.'.join(parts[:depth]) for depth in range(1, len(parts)))


def _nearest(asked: str, names: list[str]) -> list[str]:
    parent = asked.rpartition('.')[0]
    siblings = [name for name in names if name.rpartition('.')[0] == parent]
    near = difflib.get_close_matches(asked, names, n=6, cutoff=0.6)
    chosen = dict.fromkeys([*siblings, *near] if parent else [*near, *siblings])
    return [repr(name) for name in chosen if name][:12]
