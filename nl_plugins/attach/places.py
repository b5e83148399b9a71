# Copyright (c) The nl_plugins authors. All rights reserved.
"""The modules of a network that a block can follow, and why it cannot follow others."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
        self._maps: dict[str, tuple[int, ...] | None] = {}

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
            children = [f'{name}.{child}' for child in module._modules]
            works = [each for each in children if self._takes_block(each)]
            works = works or [self.instead(name)]
            verb = 'works' if len(works) == 1 else 'work'
            raise Refusal(
                f'no block can follow {asked!r}, a {type(module).__name__}: it runs '
                'its children or is never called'
                + (f'; {", ".join(map(repr, works))} {verb}' if works[0] else '')
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

    def _takes_block(self, name: str) -> bool:
        try:
            return isinstance(self._look(self.host(name)), Place)
        except Refusal:
            return False

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

    def at_strides(self, strides: Sequence[int] = (8, 16, 32)) -> dict[int, Place]:
        """For each stride the last place near it, where the network has one.

        Strides are of the sides of the input, to the next power of two. Units such as
        residual blocks are taken before single layers, and the last layer of a network
        with class tokens is not taken, since what it does to the others may be lost.
        The key is 0 for the last place of a network with none of these strides.
        """
        found: dict[int, Place] = {}
        wide = [place for place in self.outer if math.prod(place.grids[0]) > 1]
        units = [place for place in wide if _num_layers(self.modules[place.name]) > 1]
        for places in ([place for place in wide if place not in units], units):
            near: dict[int, list[Place]] = {}
            for place in places:
                run, _ = self.probe.calls(place.name)[0]
                stride = 2 ** round(math.log2(run.inputs[0][-1] / place.grids[0][-1]))
                if stride in strides and place.ndim > 1 and not run.joints:
                    near.setdefault(stride, []).append(place)
            for stride, those in near.items():
                last = those[-1]
                found[stride] = those[-2:][0] if last.layout.extra else last
        if not found and wide:
            found[0] = [*wide, *units][-1]
        return dict(sorted(found.items()))

    def instead(self, name: str) -> str | None:
        """A place near a module: around it, inside it, or else near in the order."""
        calls = self.probe.calls(self._probed.get(name, name))
        places = [place for place in self.outer if max(map(math.prod, place.grids)) > 1]
        order = calls[0][1].order if calls else math.inf
        parts = name.split('.')

        def nearness(place: Place) -> tuple[int, bool, float]:
            other = place.name.split('.')
            shared = next(
                (i for i, (a, b) in enumerate(zip(parts, other)) if a != b),
                min(len(parts), len(other)),
            )
            single = _num_layers(self.modules[place.name]) < 2
            return -shared, single, abs(place.order - order)

        return min(places, key=nearness).name if places else None

    def _holds_units(self, name: str) -> bool:
        # Units are modules of one class in a row: residual blocks, layers, stages.
        for module in self.modules[name].modules():
            if not isinstance(module, (nn.Sequential, nn.ModuleList)):
                continue
            kinds = [
                type(m)
                for m in module
                if not isinstance(m, _CONTAINERS) and _num_layers(m) > 1
            ]
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
        layout = self._layout(name, calls)
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

    def _layout(self, name: str, calls: list[tuple[Run, Call]]) -> Layout:
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
        channels = self._channels(name, stays, shapes[0])
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
        if any(call.shape[batch] > run.batch * run.parts for run, call in calls):
            raise Refusal(
                f'no block can follow {name!r}: its output {shown} holds windows or '
                'positions of a sample as samples, and a block would see one of them '
                'alone'
            )
        if not _is_map(positions, calls):
            raise Refusal(
                f'no block can follow {name!r}: the axes of its output {shown} are not '
                'those of one map, as in heads or windows'
            )
        if len(positions) == 1:
            grid, extra = self._token_grid(name, layout, calls)
            layout = Layout(batch, channels, positions, grid, extra)
        return layout

    def _channels(
        self, name: str, stays: Sequence[int], shape: tuple[int, ...]
    ) -> int | None:
        if len(stays) == 1:
            return stays[0]
        # Positions that stay too, as joints do, or a network of one input size: what
        # the module is made of tells, or what is around it.
        scopes = [self.modules[at] for at in (name, *reversed([*_parents(name)]), '')]
        for scope in scopes:
            for widths in (_norm_widths(scope), _widths(scope)):
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
        found, stacked = [], []
        for source in self._before(name, calls):
            theirs = [run.calls[source] for run, _ in calls]
            frames = {
                their.shape[0] / call.shape[layout.batch]
                for their, (_, call) in zip(theirs, calls)
            }
            if frames != {1}:
                stacked += self._extra_of_frames(source, theirs, calls, layout, tokens)
                continue
            last = theirs[0].order
            at = _start([call.sizes for call in theirs], tokens)
            if at is not None:
                start, ndim, extra = at
                found.append((extra, -last, Grid(ndim, source, start=start)))
            axes = self._map_axes(source)
            extra = axes and _extra(
                [[call.shape[axis] for axis in axes] for call in theirs], tokens
            )
            if extra is not None:
                found.append((extra, -last, Grid(len(axes), source, axes=axes)))
        if found:
            extra, _, grid = min(found, key=lambda one: one[:2])
            return grid, extra
        if stacked:  # of several frames in one sequence, in an order not known
            return None, min(stacked)
        return self._square(calls, tokens)

    def _extra_of_frames(
        self,
        source: str,
        theirs: list[Call],
        calls: list[tuple[Run, Call]],
        layout: Layout,
        tokens: list[int],
    ) -> list[int]:
        """Extra tokens of a sequence that joins the maps of several frames."""
        axes = self._map_axes(source)
        if axes is None or len(axes) != 2:
            return []
        grids = []
        for their, (_, call) in zip(theirs, calls):
            frames = their.shape[0] // call.shape[layout.batch]
            grids.append([frames, *(their.shape[axis] for axis in axes)])
        extra = _extra(grids, tokens)
        return [] if extra is None else [extra]

    def _map_axes(self, name: str) -> tuple[int, ...] | None:
        """Axes of the positions of a module that returns a map, else None."""
        if name not in self._maps:
            calls = self.probe.calls(name)
            self._maps[name] = None
            if all(call.shape and len(call.shape) > 3 for _, call in calls):
                with suppress(Refusal):
                    layout = self._layout(name, calls)
                    self._maps[name] = layout.positions
        return self._maps[name]

    def _square(
        self, calls: list[tuple[Run, Call]], tokens: list[int]
    ) -> tuple[Grid | None, int]:
        """The grid of a network that takes square images of one size only."""
        side_lengths = {n for run, _ in calls for n in run.inputs[0][-2:]}
        (height, *others) = side_lengths
        if others or not all(run.own for run, _ in calls):
            return None, 0
        for extra in range(3):  # none, class, distillation
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


def _is_map(positions: tuple[int, ...], calls: list[tuple[Run, Call]]) -> bool:
    """Whether axes of positions change with the input, as those of a map do.

    Heads and the insides of windows do not; the joints of a skeleton neither, and
    they are positions.
    """
    if len(positions) == 1 or any(run.joints for run, _ in calls):
        return True
    if len({run.inputs[0][-2:] for run, _ in calls}) > 1:
        lengths = [{call.shape[axis] for _, call in calls} for axis in positions[-2:]]
        return all(len(found) > 1 for found in lengths)
    # One size: a square input has square maps.
    return all(
        run.inputs[0][-1] != run.inputs[0][-2]
        or call.shape[positions[-1]] == call.shape[positions[-2]]
        for run, call in calls
    )


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


def _widths(module: nn.Module) -> set[int | None]:
    leaves = [m for m in module.modules() if not m._modules]
    given = {getattr(m, 'in_features', None) for m in leaves}
    return {structural_width(m) for m in leaves} | given


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


def _num_layers(module: nn.Module) -> int:
    layers = (nn.modules.conv._ConvNd, nn.Linear)
    return sum(isinstance(m, layers) for m in module.modules())


def _parents(name: str) -> Iterator[str]:
    parts = name.split('.')
    return ('.'.join(parts[:depth]) for depth in range(1, len(parts)))


def _nearest(asked: str, names: list[str]) -> list[str]:
    parent = asked.rpartition('.')[0]
    siblings = [name for name in names if name.rpartition('.')[0] == parent]
    near = difflib.get_close_matches(asked, names, n=6, cutoff=0.6)
    chosen = dict.fromkeys([*siblings, *near] if parent else [*near, *siblings])
    return [repr(name) for name in chosen if name][:12]
