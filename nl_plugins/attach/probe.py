# Copyright (c) The nl_plugins authors. All rights reserved.
"""What the modules of a network return, found without computing anything."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from .layout import sizes_of, split_output

# Samples of the runs: primes that divide no product of the sizes below, so that an
# axis which they divide in both runs holds samples.
_SAMPLES = (5, 7)
# (T, H, W) of the runs; every ratio between them differs from every other, and from
# that of the samples.
_SIZES = ((32, 288, 352), (64, 416, 544))
# What video networks are trained at that take one size.
_COMMON = ((16, 112, 112), (16, 224, 224), (8, 224, 224))
_SIDES = (
    'img_size',
    'image_size',
    'spatial_size',
    'input_resolution',
    'input_size',
    'init_input_size',
)
_STATE = ('_parameters', '_buffers', '_modules')
_FRAMES = ('num_frames', 'temporal_size', 'clip_len')


#: Of the inputs of a network.
Shapes = tuple[tuple[int, ...], ...]


@dataclass
class Call:
    """The first call of a module in one run.

    Attributes:
        order (int): How many calls ended before it.
        shape (tuple[int], optional): Of its feature map; None if its output has none
            or several.
        sizes (tuple[int]): See :func:`~nl_plugins.attach.layout.sizes_of`.
        kind (str): Type of its output.
    """

    order: int
    shape: tuple[int, ...] | None
    sizes: tuple[int, ...]
    kind: str


@dataclass
class Run:
    """One probing forward pass.

    Attributes:
        inputs (tuple[tuple[int]]): Shapes of the inputs.
        samples (int): Samples in them; the batch may hold frames of each.
        calls (dict[str, list[Call]]): By module name.
        error (str): Why it stopped, '' if it reached the end.
        own (bool): Whether the size of the input is the network's own.
        joints (bool): Whether the input is a skeleton.
    """

    inputs: tuple[tuple[int, ...], ...]
    samples: int
    calls: dict[str, Call] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    error: str = ''
    own: bool = False
    joints: bool = False

    @property
    def batch(self) -> int:
        """Samples, or frames where the network takes stacked frames."""
        return self.inputs[0][0]

    @property
    def parts(self) -> int:
        """What a network may put beside the samples: frames of a clip, persons."""
        shape = self.inputs[0]
        if self.joints:
            return shape[1]
        return shape[2] if len(shape) == 5 else 1


@dataclass
class Probe:
    """The outcome of :func:`probe`: runs of inputs of different sizes.

    Attributes:
        runs (list[Run]): With what a failure cut short.
    """

    runs: list[Run] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether at least one forward pass reached its end."""
        return any(not run.error for run in self.runs)

    @property
    def error(self) -> str:
        """Of the first run that failed."""
        return next((run.error for run in self.runs if run.error), '')

    def calls(self, name: str) -> list[tuple[Run, Call]]:
        """The runs that called a module, and its first call there."""
        return [(run, run.calls[name]) for run in self.runs if name in run.calls]

    def count(self, name: str) -> int:
        """Most calls of a module in one run."""
        return max((run.counts.get(name, 0) for run in self.runs), default=0)


def probe(
    backbone: nn.Module,
    num_segments: Iterable[int] = (),
    arguments: dict | None = None,
    sizes: Sequence[tuple[int, ...]] = (),
) -> Probe:
    """Run the backbone on the meta device, which computes only shapes.

    Two sizes are tried, so that the axes of an output can be told apart, then the
    network's own size where it refuses those. Parameters and buffers are replaced
    for the duration of the call, so nothing in the backbone changes.

    Args:
        backbone (nn.Module): Takes images (B, C, H, W), clips (B, C, T, H, W) or
            skeletons (B, M, T, V, C).
        num_segments (Iterable[int]): Frames per clip, which must divide the batch.
        arguments (dict, optional): Those that the backbone was built with.
        sizes (Sequence[tuple[int]]): (H, W) or (T, H, W) to try besides; each gives
            a run at the end where it succeeds.
    """
    tensors = {
        name: tensor.to('meta')
        for name, tensor in (*backbone.named_parameters(), *backbone.named_buffers())
    }
    known = _arguments(backbone, arguments or {})
    frames = [n for n in (*num_segments, known.get('num_segments'))]
    stacked = math.lcm(*(n for n in frames if isinstance(n, int) and n > 0))
    best = Probe()
    for kind in _kinds(backbone):

        def run_at(size, samples, kind=kind):
            shapes = kind(samples * stacked, size)
            return _run(backbone, tensors, shapes, samples)

        runs = [run_at(size, samples) for size, samples in zip(_SIZES, _SAMPLES)]
        if all(run.error for run in runs):
            for size in (*_own_sizes(backbone, known), *sizes, *_COMMON):
                own = [run_at(size, samples) for samples in _SAMPLES]
                if not own[0].error:
                    for run in own:
                        run.own = True
                    runs += own
                    break
        outcome = Probe(runs)
        if not best.runs or _reach(outcome) > _reach(best):
            best = outcome
            for size in sizes:
                run = run_at(size, _SAMPLES[0])
                if not run.error:
                    best.runs.append(run)
        if outcome.complete:
            break
    return best


def _reach(outcome: Probe) -> tuple[bool, int]:
    most = max((len(run.calls) for run in outcome.runs), default=0)
    return outcome.complete, most


def _run(
    backbone: nn.Module,
    tensors: dict[str, torch.Tensor],
    inputs: tuple[tuple[int, ...], ...],
    samples: int,
) -> Run:
    run = Run(inputs, samples, joints=_num_joints(backbone) is not None)
    order = [0]

    def record(
        name: str, module: nn.Module, args: tuple, kwargs: dict, output: Any
    ) -> None:
        order[0] += 1
        run.counts[name] = run.counts.get(name, 0) + 1
        if name in run.calls:
            return
        split = split_output(output)
        shape = tuple(split[0].shape) if split else None
        kind = type(output).__name__
        run.calls[name] = Call(order[0], shape, sizes_of(args, kwargs, output), kind)

    def hook(name: str):
        return lambda *call: record(name, *call)

    handles = [
        module.register_forward_hook(hook(name), with_kwargs=True)
        for name, module in backbone.named_modules()
        if name
    ]
    # Some networks keep what they computed for the size that they saw last.
    kept = [
        (module, *(dict(vars(module)[name]) for name in _STATE), dict(vars(module)))
        for module in backbone.modules()
    ]
    try:
        args = tuple(torch.empty(shape, device='meta') for shape in inputs)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            functional_call(backbone, tensors, args)
    # A network may refuse a meta tensor or this size in any way it likes.
    except Exception as failure:
        run.error = f'{type(failure).__name__}: {failure}'.strip().split('\n')[0]
    finally:
        for handle in handles:
            handle.remove()
        for module, *state, attributes in kept:
            vars(module).clear()
            vars(module).update(attributes)
            for name, values in zip(_STATE, state):
                vars(module)[name].clear()
                vars(module)[name].update(values)
    return run


def _kinds(backbone: nn.Module) -> Iterator[Any]:
    """Functions of (samples, (T, H, W) or (H, W)) to the shapes of the inputs."""
    joints = _num_joints(backbone)
    if joints is not None:
        yield lambda n, size: ((n, 2, size[0], joints, 3),)
        return
    convs = [m for m in backbone.modules() if isinstance(m, _ConvNd)]
    named = convs[0] if convs else backbone
    volumetric = any(type(m).__name__.endswith('3d') for m in named.modules())

    def image(n: int, size: tuple[int, ...], channels: int = 3) -> Shapes:
        return ((n, channels, *size[-2:]),)

    def clip(n: int, size: tuple[int, ...], channels: int = 3) -> Shapes:
        return ((n, channels, *(size if len(size) == 3 else (16, *size))),)

    paths = _num_inputs(backbone)
    if paths > 1:
        firsts = [
            next((m.in_channels for m in child.modules() if isinstance(m, _ConvNd)), 3)
            for child in list(backbone.children())[:paths]
        ]
        for one in (clip, image):
            yield lambda n, size, one=one: tuple(
                (n, width, *one(n, size)[0][2:]) for width in firsts
            )
        return
    # Pixels may have been moved to channels before the first convolution.
    for channels in dict.fromkeys((convs[0].in_channels if convs else 3, 3)):
        for one in (clip, image) if volumetric else (image, clip):
            yield partial(one, channels=channels)


def _num_joints(backbone: nn.Module) -> int | None:
    joints = getattr(getattr(backbone, 'graph', None), 'num_node', None)
    return joints if isinstance(joints, int) else None


def _num_inputs(backbone: nn.Module) -> int:
    try:
        parameters = inspect.signature(backbone.forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )


def _arguments(backbone: nn.Module, given: dict) -> dict[str, Any]:
    """What the network was built with: defaults, its attributes, what was given."""
    names = (*_SIDES, *_FRAMES, 'num_segments')
    known = {}
    for cls in reversed(type(backbone).__mro__):
        if '__init__' in vars(cls):
            parameters = inspect.signature(cls.__init__).parameters
            known.update(
                (name, parameters[name].default)
                for name in names
                if name in parameters
                and parameters[name].default is not inspect.Parameter.empty
            )
    for module in backbone.modules():  # such as a patch embedding or its positions
        for name in (*_SIDES, *_FRAMES):
            if vars(module).get(name) is not None:
                known[name] = vars(module)[name]
    for source in (vars(backbone), given):
        known.update((name, source[name]) for name in names if name in source)
    return known


def _own_sizes(
    backbone: nn.Module, known: dict[str, Any]
) -> list[tuple[int, int, int]]:
    """(T, H, W) from the network's own arguments, none if they do not tell."""
    sides = [known[name] for name in _SIDES if known.get(name)]
    frames = [known[name] for name in _FRAMES if isinstance(known.get(name), int)]
    found = []
    for side in sides or ([224] if frames else []):
        size = (side, side) if isinstance(side, int) else tuple(side)[-2:]
        if all(isinstance(n, int) for n in size) and len(size) == 2:
            found += [(t, *size) for t in (*frames, 16, 8)]
    first = next((m for m in backbone.modules() if isinstance(m, _ConvNd)), None)
    if first is not None:  # positions are counted in patches
        strides = (*(1,) * (3 - len(first.stride)), *first.stride)
        found += [tuple(n * s for n, s in zip(size, strides)) for size in found]
    return list(dict.fromkeys(found))


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
