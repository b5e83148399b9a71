# Copyright (c) The nl_plugins authors. All rights reserved.
"""Insert blocks after modules of a network without renaming anything."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch.nn as nn
from mmengine.logging import print_log
from torch import Tensor

from .layout import apply_block, split_output, token_grid
from .probe import Probe, probe, structural_width
from .sequence import build_blocks, initialise

_KEYS = ('after', 'cfg', 'num_segments')


def insert_blocks(backbone: nn.Module, inserts: Sequence[dict]) -> None:
    """Insert blocks in place; the work of :func:`NonLocalBackbone`.

    Args:
        backbone (nn.Module): Any network.
        inserts (Sequence[dict]): See :func:`NonLocalBackbone`.

    Raises:
        ValueError: See :func:`NonLocalBackbone`.
    """
    plan = [
        (asked, _host(backbone, asked), insert)
        for insert in _checked(inserts)
        for asked in _names(insert['after'])
    ]
    segments = [insert['num_segments'] for *_, insert in plan]
    seen = probe(backbone, {host for _, host, _ in plan}, filter(None, segments))
    built, placed = [], []
    for asked, host_name, insert in plan:
        host = backbone.get_submodule(host_name)
        width, rank = _features(host_name, host, insert, seen)
        taken = {*dir(host), *(name for at, name, *_ in placed if at == host_name)}
        blocks = build_blocks(insert['cfg'], width, taken)
        for name, block in blocks.items():
            where = f'{type(block).__name__} after {asked!r}'
            ndim = getattr(block, 'ndim', None)
            _check_rank(where, ndim, rank, insert['num_segments'])
            size = sum(p.numel() for p in block.parameters())
            note = f'{where}, in_channels={width}, {size:,} parameters'
            placed.append((host_name, name, note))
        built.append((host_name, host, blocks, insert['num_segments']))

    # Nothing was changed until here, so that a mistake leaves the backbone whole.
    for host_name, host, blocks, num_segments in built:
        for name, block in blocks.items():
            host.add_module(name, block)
        hook = partial(
            run_inserted,
            names=tuple(blocks),
            num_segments=num_segments,
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
    if type(backbone).__bases__[1].train is not nn.Module.train:
        # Freezes the blocks of frozen stages now, not later without a word.
        backbone.train(backbone.training)
    _warn_frozen(backbone, placed)


def run_inserted(
    module: nn.Module,
    args: tuple,
    kwargs: dict,
    output: Any,
    *,
    names: tuple[str, ...],
    num_segments: int | None,
    where: str,
) -> Any:
    """Forward hook: the children ``names`` applied to the output of ``module``."""
    split = split_output(output)
    if split is None:
        raise ValueError(_ambiguous(where, output))
    x, rest = split
    for name in names:
        block = getattr(module, name)
        if x.ndim == 3 and getattr(block, 'ndim', 2) != 1:
            grid = token_grid(x.shape[1], *rest, rest, *args, *kwargs.values())
            if grid is None:
                raise ValueError(_no_grid(where, tuple(x.shape)))
            x = x.mT.unflatten(2, grid)  # (B, L, C) -> (B, C, H, W)
            x = apply_block(block, x, num_segments).flatten(2).mT
        else:
            x = apply_block(block, x, num_segments)
    return (x, *rest) if isinstance(output, tuple) else x


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
        with _hidden_blocks(self, reset=not done):
            inner = getattr(super(), 'init_weights', None)
            if inner is not None:
                inner(*args, **kwargs)

    def train(self, mode: bool = True):
        """Set the mode and return the backbone, which some backbones forget."""
        super().train(mode)
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
    return type(cls.__name__, (WithBlocks, cls), {'__doc__': cls.__doc__, **names})


def _new_with_blocks(cls: type[nn.Module]) -> nn.Module:
    cls = with_blocks(cls)
    return cls.__new__(cls)


@contextmanager
def _hidden_blocks(backbone: nn.Module, reset: bool) -> Iterator[None]:
    """Take the inserted blocks out; put each back, initialised, before its weights
    are loaded or at the end."""
    hidden: dict[str, dict[str, nn.Module]] = {}
    for host_name, name in backbone.inserted_blocks:
        children = backbone.get_submodule(host_name)._modules
        hidden.setdefault(host_name, {})[name] = children.pop(name)

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
    if not isinstance(inserts, (list, tuple)) or not inserts:
        raise ValueError(
            'inserts must be a list of dict(after=..., cfg=...) with at least one '
            f'entry, but got {inserts!r}'
        )
    checked = []
    for insert in inserts:
        if not isinstance(insert, dict) or not {'after', 'cfg'} <= set(insert):
            raise ValueError(
                "each of inserts must be a dict with the keys 'after' and 'cfg', but "
                f'got {insert!r}'
            )
        unknown = set(insert) - set(_KEYS)
        if unknown:
            raise ValueError(
                f'inserts takes the keys {list(_KEYS)}, but got {sorted(unknown)}'
            )
        num_segments = insert.get('num_segments')
        if num_segments is not None and (
            not isinstance(num_segments, int) or num_segments < 1
        ):
            raise ValueError(
                f'num_segments must be a positive integer, but got {num_segments!r}'
            )
        checked.append({'num_segments': None, **insert})
    return checked


def _names(after: str | Sequence[str]) -> list[str]:
    names = [after] if isinstance(after, str) else list(after)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(
            "'after' must name at least one module, as in 'layer3.5', but got "
            f'{after!r}'
        )
    return names


def _host(backbone: nn.Module, asked: str) -> str:
    """Name of the module whose child the block becomes."""
    modules = dict(backbone.named_modules(remove_duplicate=False))
    if asked not in modules:
        raise ValueError(
            f'{type(backbone).__name__} has no module {asked!r}; nearest names: '
            f'{", ".join(_nearest(asked, list(modules)))}'
        )
    name, module = asked, modules[asked]
    # A child of a Sequential would run as one of its layers.
    while type(module).forward is nn.Sequential.forward and len(module):
        last = list(module._modules)[-1]
        name, module = f'{name}.{last}', module[-1]
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        children = ', '.join(f'{name}.{child}' for child in module._modules)
        raise ValueError(
            f'no block can follow {asked!r}, a {type(module).__name__}: it runs its '
            f'children or is never called; follow one of them ({children})'
        )
    if isinstance(module, nn.modules.batchnorm._NormBase):
        raise ValueError(
            f'no block can follow {asked!r}, a {type(module).__name__}: converting '
            'to SyncBN or fusing it would drop the block; follow the module around it'
        )
    return name


def _nearest(asked: str, names: list[str]) -> list[str]:
    parent = asked.rpartition('.')[0]
    siblings = [name for name in names if name.rpartition('.')[0] == parent]
    near = difflib.get_close_matches(asked, names, n=6, cutoff=0.6)
    chosen = dict.fromkeys([*siblings, *near] if parent else [*near, *siblings])
    return [repr(name) for name in chosen if name][:12]


def _features(
    name: str, host: nn.Module, insert: dict, outcome: Probe
) -> tuple[int, int | None]:
    """Width and rank (None: unknown) of the features that follow a module."""
    cfg = insert['cfg']
    first = cfg if isinstance(cfg, dict) else next(iter(cfg or ()), {})
    given = first.get('in_channels')
    seen = outcome.seen.get(name)
    if seen is None:
        width = given or structural_width(host)
        if width is None:
            raise ValueError(
                f'the width of the features after {name!r} is unknown, since a '
                f'probing forward failed ({outcome.error}): give in_channels in cfg'
            )
        return width, None
    if not seen.calls:
        raise ValueError(
            f'no block can follow {name!r}: the backbone never calls it, so the block '
            'would never run'
        )
    if seen.calls > 1:
        raise ValueError(
            f'no block can follow {name!r}: the backbone calls it {seen.calls} times '
            'in one forward, so the block would run as often; follow the module '
            'around it'
        )
    if seen.shape is None:
        raise ValueError(_ambiguous(name, None))
    rank = len(seen.shape)
    if rank == 3 and first.get('ndim', 2) != 1:
        if seen.grid is None:
            raise ValueError(_no_grid(name, seen.shape))
        return given or seen.shape[2], 4
    return given or seen.shape[1], rank


def _check_rank(
    where: str, ndim: int | None, rank: int | None, num_segments: int | None
) -> None:
    if rank is None or ndim is None or rank == ndim + 2:
        return
    if ndim == 3 and rank == 4:
        if num_segments is None:
            raise ValueError(
                f'{where} is a 3D block, but the features are 2D maps of frames: give '
                'num_segments, the frames of a clip at this layer, or ndim=2'
            )
        return
    raise ValueError(
        f'{where} has ndim={ndim}, but the features there have {rank - 2} spatial '
        f'dimensions: give ndim={rank - 2}'
    )


def _no_grid(name: str, shape: tuple[int, ...]) -> str:
    return (
        f'{name!r} returns tokens {shape} (B, L, C) without the size of their grid, so '
        'no block can follow it: follow a module that takes or returns (H, W), as '
        "Swin's blocks do, or that returns a map (B, C, H, W)"
    )


def _ambiguous(name: str, output: Tensor | Any) -> str:
    kind = '' if output is None else f' ({type(output).__name__})'
    return (
        f'{name!r} does not return one feature map{kind}, so no block can follow it: '
        'follow a module inside it that returns one tensor'
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
