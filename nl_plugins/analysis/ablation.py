# Copyright (c) The nl_plugins authors. All rights reserved.
"""What a block's affinity is worth: the same network with another one, or with none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Literal, get_args

import torch
import torch.nn as nn
from torch import Tensor

from ..blocks import NonLocalBlock
from ..blocks.graph_filter import GraphFilterBlock
from ..graph import Affinity
from ..graph.dot import UnaryAffinity
from ..graph.lazy import Map, as_tensor
from ..graph.precision import at_least_float32
from .record import choose_layers, eager

Ablation = Literal['mean_row', 'identity', 'off']

_TILE = 1 << 22  # entries of the rows that are held at once


@contextmanager
def ablate(
    model: nn.Module, how: Ablation, layers: Sequence[str] | None = None
) -> Iterator[None]:
    """Run a network with the affinity A (N x M) of its blocks replaced.

    =============  ==================================================================
    ``mean_row``   ``1 ā``, ``ā = Aᵀ 1 / N``: every query sees the same, as in GCNet
                   (Cao et al. 2019, https://arxiv.org/abs/1904.11492)
    ``identity``   ``I``: every query sees itself, so that 1x1 convolutions are left
    ``off``        no block: ``z = x``
    =============  ==================================================================

    Exact: the filter, the norm and the sum of the block stay. Without gradients memory
    is linear in N + M. Softmax rows are visited once, at the cost of N M; the mean row
    of a product of factors costs one product. For blocks of ours and, while
    ``nl_plugins.accelerate`` is in force, the classes that it accelerates::

        with ablate(model, 'mean_row', layers=['decode_head']):
            runner.test()

    Args:
        model (nn.Module): Any model that holds blocks.
        how (str): 'mean_row', 'identity' or 'off'.
        layers (Sequence[str], optional): Names of the blocks, or of modules that hold
            blocks. Defaults to None, all blocks.

    Raises:
        ValueError: If ``how`` is outside its choices, the model or a layer holds no
            block, a block whose keys are pooled meets 'identity', or a module without
            a residual sum meets 'off'.
    """
    if how not in get_args(Ablation):
        raise ValueError(f'how must be one of {get_args(Ablation)}, but got {how!r}')
    chosen = choose_layers(filtering_modules(model), layers)
    if not chosen:
        raise ValueError('the model holds no non-local block to ablate')
    with ExitStack() as stack:
        for name, module in chosen.items():
            if how == 'off':
                stack.enter_context(_off(name, module))
            else:
                replace = _mean if how == 'mean_row' else _Identity.of
                stack.enter_context(replaced_affinity(module, replace))
        stack.enter_context(eager())
        yield


def filtering_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Blocks of ours and accelerated modules, by name."""
    accelerate = sys.modules.get('nl_plugins.accelerate')
    kinds = (NonLocalBlock, *(accelerate.accelerated_classes() if accelerate else ()))
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    }


@contextmanager
def replaced_affinity(
    module: nn.Module, replace: Callable[[Affinity], Affinity]
) -> Iterator[None]:
    """Let a module apply ``replace(A)`` wherever it would apply its affinity A.

    Args:
        module (nn.Module): One of :func:`filtering_modules`.
        replace (Callable): Sees the affinity of every pass of the module; may return
            it unchanged.
    """
    chain = vars(module).get('_replacements')
    if chain is not None:  # what came first is first
        chain.append(replace)
        try:
            yield
        finally:
            chain.remove(replace)
        return
    chain = [replace]
    graph_filter = isinstance(module, GraphFilterBlock)
    name = 'filter' if graph_filter else 'forward'
    wrap = _replacing_filter if graph_filter else _replacing_forward
    with _attribute(module, '_replacements', chain):
        with _attribute(module, name, wrap(getattr(module, name), chain)):
            yield


def _replacing_filter(original: Callable, chain: list[Callable]) -> Callable:
    # It may look into the affinity, so that to replace what it applies is too late.
    def filtered(affinity: Affinity, *args: Any, **kwargs: Any) -> Tensor:
        for replace in chain:
            affinity = replace(affinity)
        return original(affinity, *args, **kwargs)

    return filtered


def _replacing_forward(original: Callable, chain: list[Callable]) -> Callable:
    @wraps(original)
    def inside(*args: Any, **kwargs: Any) -> Tensor:
        apply = Affinity.apply

        def applied(affinity: Affinity, *args: Any, **kwargs: Any) -> Tensor:
            Affinity.apply = apply  # the terms of a sum are no affinities of the block
            try:
                for replace in chain:
                    affinity = replace(affinity)
                return affinity.apply(*args, **kwargs)
            finally:
                Affinity.apply = applied

        Affinity.apply = applied
        try:
            return original(*args, **kwargs)
        finally:
            Affinity.apply = apply

    return inside


def mean_row(affinity: Affinity) -> Tensor:
    """``ā = Aᵀ 1 / N``, (B, M) in at least float32, in memory linear in N + M."""
    batch, queries, keys = affinity.shape
    try:
        transposed = affinity.transpose()
    except TypeError:
        total = None
        for index in _tiles(batch, queries, keys, affinity.device):
            part = at_least_float32(affinity.rows(index)).sum(1)
            total = part if total is None else total + part
        return total / queries
    ones = torch.ones(batch, queries, 1, dtype=affinity.dtype, device=affinity.device)
    return transposed.apply(at_least_float32(ones) / queries).squeeze(2)


def _tiles(batch: int, queries: int, keys: int, device) -> Iterator[Tensor]:
    size = max(_TILE // (batch * keys), 1)
    return iter(torch.arange(queries, device=device).split(size))


def _mean(affinity: Affinity) -> Affinity:
    if isinstance(affinity, UnaryAffinity):  # its rows are equal
        return affinity
    return UnaryAffinity(mean_row(affinity).to(affinity.dtype), affinity.shape[1])


class _Identity(Affinity):
    """``A = I``."""

    def __init__(self, affinity: Affinity) -> None:
        self.shape, self.dtype = affinity.shape, affinity.dtype
        self.device = affinity.device

    @classmethod
    def of(cls, affinity: Affinity) -> _Identity:
        _, queries, keys = affinity.shape
        if queries != keys:
            raise ValueError(
                f"how='identity' needs as many keys as queries, but {affinity!r} has "
                'pooled or common keys: leave this block out by layers, or take '
                "'mean_row' or 'off'"
            )
        return cls(affinity)

    def _dense(self) -> Tensor:
        batch, size, _ = self.shape
        eye = torch.eye(size, dtype=self.dtype, device=self.device)
        return eye.expand(batch, -1, -1)

    def _apply(self, values: Map) -> Tensor:
        return as_tensor(values)

    def transpose(self) -> _Identity:
        return self


@contextmanager
def _off(name: str, module: nn.Module) -> Iterator[None]:
    if type(module).__name__ == 'SelfAttentionBlock':
        raise ValueError(
            f"how='off' needs a residual sum, which {name!r} of mmseg's "
            "SelfAttentionBlock has not: take 'mean_row' or 'identity', or leave it "
            'out by layers'
        )
    with _attribute(module, 'forward', lambda x: x):
        yield


@contextmanager
def _attribute(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    had, before = name in vars(module), vars(module).get(name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before) if had else delattr(module, name)
