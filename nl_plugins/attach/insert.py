# Copyright (c) The nl_plugins authors. All rights reserved.
"""Insert blocks after modules of a network without renaming anything."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import Annotated, Any, Literal

import torch.nn as nn
from mmengine.logging import print_log
from torch.fx import Proxy

from ..options import Count, Filled, check, did_you_mean
from .layout import Grid, Layout, apply_block, join_output, split_output
from .places import Place, Places
from .probe import probe, structural_width
from .sequence import as_cfgs, build_blocks, check_sees_clips, initialise
from .train_only import NORMS

_OPTIONS = {
    'after': Annotated[str | Sequence[str], Filled()],
    'cfg': object,  # whose blocks are checked when they are built
    'num_segments': Count | Literal['input'] | None,
}


def insert_blocks(
    backbone: nn.Module, inserts: Sequence[dict], arguments: dict | None = None
) -> None:
    """Insert blocks in place; the work of :func:`NonLocalBackbone`.

    Args:
        backbone (nn.Module): Any network.
        inserts (Sequence[dict]): See :func:`NonLocalBackbone`.
        arguments (dict, optional): Those that the backbone was built with.

    Raises:
        ValueError: See :func:`NonLocalBackbone`.
    """
    checked = _checked(inserts)
    segments = [insert['num_segments'] for insert in checked]
    outcome = probe(backbone, segments, arguments)
    places = Places(backbone, outcome)
    built, placed = [], []
    for insert in checked:
        names = _names(insert['after'])
        if len(names) > 1 and any(
            isinstance(one, nn.Module) for one in as_cfgs(insert['cfg'])
        ):
            raise ValueError(
                f'a built block goes after one module, but {names} are {len(names)}: '
                'give its config, or one insert with a block of its own for each'
            )
        for asked in names:
            host_name = places.host(asked)
            host = backbone.get_submodule(host_name)
            place = _place(places, host_name, insert)
            own = getattr(backbone, 'num_segments', None)
            _check_frames(asked, place, insert, own)
            taken = {*dir(host), *(name for at, name, *_ in placed if at == host_name)}
            blocks = build_blocks(insert['cfg'], place.width, taken)
            for name, block in blocks.items():
                where = f'{type(block).__name__} after {asked!r}'
                _check_fit(where, block, place, insert['num_segments'])
                size = sum(p.numel() for p in block.parameters())
                note = f'{where}, in_channels={place.width}, {size:,} parameters'
                placed.append((host_name, name, note))
            built.append((host_name, host, blocks, place.layout, insert))

    # Nothing was changed until here, so that a mistake leaves the backbone whole.
    for host_name, host, blocks, layout, insert in built:
        for name, block in blocks.items():
            host.add_module(name, block)
        grid = None
        if layout.grid is not None and layout.grid.source:
            grid = Remembered()
            source = backbone.get_submodule(layout.grid.source)
            source.register_forward_hook(
                partial(remember_grid, grid=layout.grid, memory=grid), with_kwargs=True
            )
        hook = partial(
            run_inserted,
            names=tuple(blocks),
            layout=layout,
            memory=grid,
            num_segments=insert['num_segments'],
            where=host_name,
        )
        host.register_forward_hook(hook, with_kwargs=True)
    for host_name, name, note in placed:
        print_log(f'Inserted {host_name}.{name}: {note}', logger='current')
    placed = [(host_name, name) for host_name, name, _ in placed]
    if not isinstance(backbone, WithBlocks):
        backbone.__class__ = with_blocks(type(backbone))
        backbone.inserted_blocks = ()
    backbone.inserted_blocks = (*backbone.inserted_blocks, *placed)
    # Freezes the blocks of frozen stages now, not later without a word.
    if type(backbone).__bases__[1].train is not nn.Module.train:
        backbone.train(backbone.training)
    _warn_frozen(backbone, placed)


class Remembered:
    """The grid that one module saw, for the blocks of a later one."""

    size: tuple | None = None


def remember_grid(
    module: nn.Module,
    args: tuple,
    kwargs: dict,
    output: Any,
    *,
    grid: Grid,
    memory: Remembered,
) -> None:
    """Forward hook of the module that knows the grid of the tokens."""
    memory.size = grid.read(args, kwargs, output)


def run_inserted(
    module: nn.Module,
    args: tuple,
    kwargs: dict,
    output: Any,
    *,
    names: tuple[str, ...],
    layout: Layout,
    memory: Remembered | None,
    num_segments: int | str | None,
    where: str,
) -> Any:
    """Forward hook: the children ``names`` applied to the output of ``module``."""
    if isinstance(output, Proxy) or any(isinstance(item, Proxy) for item in args):
        raise NotImplementedError(
            f'torch.fx cannot trace the block after {where!r}, whose form depends on '
            'the size of the input: leave efficient_conv_bn_eval out of the config, '
            'and capture the network with torch.export or torch.compile'
        )
    split = split_output(output)
    if split is None:
        raise ValueError(
            f'{where!r} does not return one feature map but a {type(output).__name__}, '
            'so no block can follow it'
        )
    x, index = split
    if not layout.positions:  # the probe did not reach it
        for name in names:
            x = apply_block(getattr(module, name), x, num_segments)
        return join_output(output, x, index)
    if x.ndim != len(layout.order):
        raise ValueError(
            f'{where!r} returns a tensor {tuple(x.shape)}, but had '
            f'{len(layout.order)} axes when the block was inserted'
        )
    y = layout.fold(x)
    for name in names:
        block = getattr(module, name)
        if layout.grid is None or getattr(block, 'ndim', layout.ndim) == 1:
            y = apply_block(block, y, num_segments)
            continue
        grid = memory.size if memory else layout.grid.read(args, kwargs, output)
        if grid is None or math.prod(grid) != y.shape[2]:
            raise ValueError(
                f'the {y.shape[2]} tokens of {where!r} are not the grid {grid} that '
                'its network tells: give an input of the size that the network was '
                'built for'
            )
        y = apply_block(block, y.unflatten(2, tuple(grid)), num_segments).flatten(2)
    return join_output(output, layout.unfold(y, x), index)


class WithBlocks:
    """Mixed into the class of a backbone that holds inserted blocks.

    Attributes:
        inserted_blocks (tuple[tuple[str, str]]): Name of the followed module and
            name of its child, for every inserted block.
    """

    inserted_blocks: tuple[tuple[str, str], ...]

    def init_weights(self, *args, **kwargs) -> None:
        """Initialise the backbone as if it had no blocks, then the blocks.

        Initialisers go by layer type and would overwrite those of the blocks; some
        (mmaction) fail at layers that they do not know. Keys of blocks in a
        checkpoint that the backbone loads here are loaded and win.
        """
        done = getattr(self, 'is_init', False)
        with _blocks_initialised_last(self, reset=not done):
            inner = getattr(super(), 'init_weights', None)
            if inner is not None:
                inner(*args, **kwargs)

    def train(self, mode: bool = True):
        """Set the mode and return the backbone, which some backbones forget.

        A backbone may put all its norms into evaluation mode or freeze them
        (``norm_eval``, ``bn_frozen``, ``partial_bn``). The norm of a new block starts
        at zero gain and without statistics, so it is spared; a block in a frozen stage
        is frozen with it.
        """
        with _hidden_blocks(self) as hidden:
            super().train(mode)
            frozen = {host: _is_frozen(self, host) for host in hidden}
        for host, name in self.inserted_blocks:
            block = self.get_submodule(host)._modules[name]
            block.train(mode and not frozen[host])
            if frozen[host]:
                block.requires_grad_(False)
        return self

    def __reduce_ex__(self, protocol):
        # The class is made at run time, so it is pickled by its parent.
        parent = type(self).__bases__[1]
        state = super().__reduce_ex__(protocol)[2:]
        return (_new_with_blocks, (parent,), *state)


@cache
def with_blocks(cls: type[nn.Module]) -> type[nn.Module]:
    """The subclass of ``cls`` that handles inserted blocks, under the same name."""
    names = {'__module__': cls.__module__, '__qualname__': cls.__qualname__}
    if hasattr(cls, 'get_layer_depth'):
        names['get_layer_depth'] = _layer_depth_of(cls)
    return type(cls.__name__, (WithBlocks, cls), {'__doc__': cls.__doc__, **names})


def _layer_depth_of(cls: type[nn.Module]):
    """mmpretrain's ``get_layer_depth`` that gives a block the depth of its host."""

    @wraps(cls.get_layer_depth)
    def get_layer_depth(self, param_name: str, prefix: str = ''):
        for host, name in self.inserted_blocks:
            if param_name.startswith(f'{prefix}{host}.{name}.'):
                param_name = prefix + _last_parameter(self, host)
                break
        return cls.get_layer_depth(self, param_name, prefix)

    return get_layer_depth


def _last_parameter(backbone: nn.Module, host: str) -> str:
    """Name of the last parameter of a module, or before it, that is of no block."""
    blocks = tuple(f'{at}.{name}.' for at, name in backbone.inserted_blocks)
    names = [n for n, _ in backbone.named_parameters() if not n.startswith(blocks)]
    inside = [name for name in names if name.startswith(f'{host}.')]
    if inside:
        return inside[-1]
    above = host.rpartition('.')[0]
    return _last_parameter(backbone, above) if above else names[0]


def _new_with_blocks(cls: type[nn.Module]) -> nn.Module:
    cls = with_blocks(cls)
    return cls.__new__(cls)


@contextmanager
def _hidden_blocks(backbone: nn.Module) -> Iterator[dict[str, dict[str, nn.Module]]]:
    """Take the inserted blocks out, by host and name; put back those that remain."""
    hidden: dict[str, dict[str, nn.Module]] = {}
    for host_name, name in backbone.inserted_blocks:
        children = backbone.get_submodule(host_name)._modules
        hidden.setdefault(host_name, {})[name] = children.pop(name)
    hosts = {host_name: backbone.get_submodule(host_name) for host_name in hidden}
    try:
        yield hidden
    finally:
        for host_name, blocks in hidden.items():
            hosts[host_name]._modules.update(blocks)


def _is_frozen(backbone: nn.Module, host: str) -> bool:
    """Whether a module is frozen by its place: what is no norm in it too, or around it
    where it has no weights."""
    weights = [
        parameter
        for module in backbone.get_submodule(host).modules()
        if not isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    ]
    if weights or '.' not in host:
        return bool(weights) and not any(weight.requires_grad for weight in weights)
    return _is_frozen(backbone, host.rpartition('.')[0])


@contextmanager
def _blocks_initialised_last(backbone: nn.Module, reset: bool) -> Iterator[None]:
    """Take the inserted blocks out; put each back, initialised, before its weights
    are loaded or at the end."""
    with _hidden_blocks(backbone) as hidden:
        with _revealed_by_loading(backbone, hidden, reset):
            yield


@contextmanager
def _revealed_by_loading(
    backbone: nn.Module, hidden: dict[str, dict[str, nn.Module]], reset: bool
) -> Iterator[None]:

    def reveal(host_name: str, *_: Any) -> None:
        children = backbone.get_submodule(host_name)._modules
        for name, block in hidden.pop(host_name, {}).items():
            children[name] = block
            _join_init_info(backbone, block)
            if reset:
                initialise(block)

    # Loading visits a module's own parameters, where the hooks run, before its
    # children.
    handles = [
        backbone.get_submodule(host_name)._register_load_state_dict_pre_hook(
            partial(reveal, host_name)
        )
        for host_name in hidden
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for host_name in list(hidden):
            reveal(host_name)


def _join_init_info(backbone: nn.Module, block: nn.Module) -> None:
    # mmengine keeps notes on every parameter while a BaseModule initialises, and
    # gives them to the modules it sees at the start.
    notes = getattr(backbone, '_params_init_info', None)
    if notes is None or hasattr(block, '_params_init_info'):
        return
    for parameter in block.parameters():
        notes[parameter]['init_info'] = f'Initialised by {type(block).__name__}'
        notes[parameter]['tmp_mean_value'] = parameter.data.mean().cpu()
    for module in block.modules():
        module._params_init_info = notes


def _checked(inserts: Sequence[dict]) -> list[dict]:
    checked = []
    for number, insert in enumerate(inserts):
        owner = f'inserts[{number}] of NonLocalBackbone'
        for key in insert:
            if key not in _OPTIONS:
                raise ValueError(
                    f'{owner} has no option {key!r}{did_you_mean(key, _OPTIONS)}, '
                    f'choose from {list(_OPTIONS)}'
                )
        for key in ('after', 'cfg'):
            if key not in insert:
                raise ValueError(
                    f"{owner} must have the keys 'after' and 'cfg', but got {insert!r}"
                )
        insert = {'num_segments': None, **insert}
        for key, annotation in _OPTIONS.items():
            check(owner, key, insert[key], annotation)
        checked.append(insert)
    return checked


def _names(after: str | Sequence[str]) -> list[str]:
    return [after] if isinstance(after, str) else list(after)


def _place(places: Places, name: str, insert: dict) -> Place:
    """The place after a module; a given width stands in for a probe that failed."""
    first = next(iter(as_cfgs(insert['cfg'])), None)
    given = first.get('in_channels') if isinstance(first, dict) else None
    if not places.probe.calls(name) and not places.probe.complete:
        host = places.backbone.get_submodule(name)
        width = given or structural_width(host)
        if width is None:
            raise ValueError(
                f'the width of the features after {name!r} is unknown, since a '
                f'probing forward failed ({places.probe.error}): give in_channels in '
                'cfg'
            )
        print_log(
            f'A probing forward stopped before {name!r} ({places.probe.error}); the '
            f'block takes its features as (B, {width}, *S)',
            logger='current',
            level=logging.WARNING,
        )
        return Place(name, type(host).__name__, width, Layout(), (), (), 0, False)
    place = places.place(name)
    if given is not None and given != place.width:
        raise ValueError(
            f'in_channels={given} is wrong after {name!r}, which returns '
            f'{place.width} channels: give in_channels={place.width}, or leave it out'
        )
    return place


def _check_frames(asked: str, place: Place, insert: dict, own: int | None) -> None:
    """num_segments against what the network itself says about frames."""
    given = insert['num_segments']
    if given is None:
        return
    if place.grids and place.ndim == 3:
        raise ValueError(
            f'num_segments={given} is for networks of stacked frames, but {asked!r} '
            f'returns clips already: leave num_segments out'
        )
    check_sees_clips(insert['cfg'], given, f' after {asked!r}')
    if isinstance(own, int) and isinstance(given, int) and place.frames:
        here = own * place.frames[0]
        if given != here:
            raise ValueError(
                f'num_segments={given} after {asked!r} differs from the backbone, '
                f'whose num_segments={own} gives clips of {here:g} frames there: give '
                f'num_segments={here:g}'
            )


def _check_fit(
    where: str, block: nn.Module, place: Place, num_segments: int | str | None
) -> None:
    """The dimensions of a block against those of the features."""
    ndim = getattr(block, 'ndim', None)
    if not place.grids or ndim is None or ndim == place.ndim:
        return
    if ndim == 1 and place.layout.grid is not None:
        return  # tokens are a sequence too
    if ndim == 3 and place.ndim == 2:
        if num_segments is None:
            raise ValueError(
                f'{where} is a 3D block, but the features are 2D maps of frames: give '
                'num_segments, the frames of a clip at this layer, or ndim=2'
            )
        return
    if place.ndim == 1:
        raise ValueError(
            f'{where} has ndim={ndim}, but the features there are tokens without the '
            'size of their grid: give ndim=1, or follow a module that returns a map'
        )
    raise ValueError(
        f'{where} has ndim={ndim}, but the features there have {place.ndim} spatial '
        f'dimensions: give ndim={place.ndim}'
    )


def _warn_frozen(backbone: nn.Module, placed: list[tuple[str, str]]) -> None:
    for host_name, name in placed:
        block = backbone.get_submodule(f'{host_name}.{name}')
        parameters = list(block.parameters())
        frozen = sum(not parameter.requires_grad for parameter in parameters)
        if frozen:
            print_log(
                f'{host_name}.{name} is frozen with its backbone '
                f'({frozen} of {len(parameters)} parameter tensors will not be '
                'trained): place the block after the frozen stages, or freeze fewer',
                logger='current',
                level=logging.WARNING,
            )
