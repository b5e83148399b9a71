# Copyright (c) The nl_plugins authors. All rights reserved.
"""Runs blocks on a GPU that is not there, and records every operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operators that look at nothing but sizes, beside the views.
_FREE = {
    'alias',
    'detach',
    'detach_',
    'empty',
    'empty_like',
    'empty_permuted',
    'empty_strided',
    'lift_fresh',
    'new_empty',
    'new_empty_strided',
    'resize_',
    '_reshape_alias',
    '_unsafe_view',
    'set_',
}


# Products, by the place of their first factor.
_FACTORS = {'bmm': 0, 'mm': 0, 'addmm': 1, 'baddbmm': 1, 'baddbmm_': 1, 'addbmm': 1}


@dataclass
class Recording:
    """Operators that ran, in order.

    Attributes:
        names (list[str]): Of those that start a kernel.
        elsewhere (list[str]): Of those that made a tensor outside the device.
        masked (list[str]): Of those that index by a mask.
        products (dict[torch.dtype, int]): Multiply-adds by the dtype of the factors.
    """

    device: str
    names: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    masked: list[str] = field(default_factory=list)
    products: Counter[torch.dtype] = field(default_factory=Counter)


class Record(TorchDispatchMode):
    """Writes the operators that reach a device into a recording."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.recording = Recording(device)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        library, _, name = func.name().partition('.')[0].partition('::')
        if library == 'prim':  # asks for a tensor's device
            return out
        seen, device = self.recording, self.recording.device
        if not func.is_view and name not in _FREE:
            seen.names.append(name)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if any(tensor.device.type != device for tensor in made):
            seen.elsewhere.append(name)
        if name.startswith('index') and any(
            isinstance(leaf, Tensor) and leaf.dtype == torch.bool
            for leaf in tree_leaves(args[1:2])
        ):
            seen.masked.append(name)
        if name in _FACTORS:
            left, right = args[_FACTORS[name]], args[_FACTORS[name] + 1]
            seen.products[left.dtype] += left.numel() * right.shape[-1]
        return out


def on_a_fake_gpu(
    build, shape: tuple[int, ...], train: bool, autocast: torch.dtype | None = None
) -> Recording:
    """Forward, and with ``train`` backward, of ``build()`` on fake CUDA tensors."""
    with FakeTensorMode():
        with torch.device('cuda'):
            module, x = build(), torch.randn(shape, requires_grad=train)
        module.train(train)
        cast = nullcontext() if autocast is None else _autocast(autocast)
        with Record('cuda') as mode, _fused_attention(mode.recording):
            with torch.set_grad_enabled(train), cast:
                out = module(x)
            assert out.shape == x.shape and out.device.type == 'cuda'
            if train:
                reached = _backward(out, torch.ones_like(out))
                assert reached.keys() >= {id(x)}
                for tensor, grad in reached.values():
                    assert grad.shape == tensor.shape and grad.device == tensor.device
    return mode.recording


@contextmanager
def _autocast(dtype: torch.dtype) -> Iterator[None]:
    """``torch.autocast('cuda')``, which does nothing without a GPU."""
    torch.set_autocast_enabled('cuda', True)
    torch.set_autocast_dtype('cuda', dtype)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled('cuda', False)
        torch.set_autocast_dtype('cuda', torch.half)


@contextmanager
def _fused_attention(seen: Recording) -> Iterator[None]:
    """What a card would choose: without one, torch would take attention apart."""

    def attention(query, key, value, attn_mask=None, scale=None):
        tensors = [query, key, value]
        if torch.is_autocast_enabled('cuda'):
            tensors = [t.to(torch.get_autocast_dtype('cuda')) for t in tensors]
        pairs = query.numel() // query.shape[-1] * key.shape[-2]
        seen.products[tensors[0].dtype] += pairs * (query.shape[-1] + value.shape[-1])
        run = torch.ops.aten._scaled_dot_product_efficient_attention
        return run(*tensors, attn_mask, True, scale=scale)[0]

    own = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own


def on_meta(build, shape: tuple[int, ...]) -> Recording:
    """Forward and backward by autograd's own engine, on the meta device."""
    with torch.device('meta'):
        module, x = build(), torch.randn(shape, requires_grad=True)
    with Record('meta') as mode:
        module(x).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    return mode.recording


def _backward(out: Tensor, cotangent: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """The gradients of the leaves by ``id(leaf)``.

    Autograd's engine asks the driver for streams, and there is no driver: the nodes
    are called one by one instead.
    """
    pending: dict = {out.grad_fn: {out.output_nr: cotangent}}
    leaves: dict[int, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        for node in _sorted(out.grad_fn):
            given = pending.pop(node, {})
            if not given:
                continue
            if hasattr(node, 'variable'):
                leaves[id(node.variable)] = node.variable, given[0]
                continue
            grads = [given.get(index) for index in range(len(node._input_metadata))]
            is_python = isinstance(node, torch.autograd.function.BackwardCFunction)
            results = node.apply(*grads) if is_python else node(*grads)
            if isinstance(results, Tensor) or results is None:
                results = (results,)
            for (target, index), grad in zip(node.next_functions, results):
                if target is None or grad is None:
                    continue
                # As the engine does with the gradient of what was broadcast or cast.
                meta = target._input_metadata[index]
                grad = grad.sum_to_size(meta.shape).to(meta.dtype)
                sums = pending.setdefault(target, {})
                sums[index] = sums[index] + grad if index in sums else grad
    return leaves


def _sorted(root) -> Iterator:
    """Nodes of a graph, each before those that it hands gradients to."""
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(n, False) for n, _ in node.next_functions if n is not None]
    return reversed(order)


def counts(recording: Recording) -> dict[str, int]:
    """How often each operator ran."""
    return {
        name: recording.names.count(name) for name in dict.fromkeys(recording.names)
    }
