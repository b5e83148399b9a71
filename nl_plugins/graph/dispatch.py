# Copyright (c) The nl_plugins authors. All rights reserved.
"""Switches: dense matrix or fast operator, checks that read the data, precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .affinity import Affinity

FORMULATIONS = ('auto', 'dense', 'fast')
_formulation = 'auto'
_debug = False


@contextmanager
def force(formulation: str) -> Iterator[None]:
    """Compute every affinity in one formulation, for tests and benchmarks.

    Args:
        formulation (str): ``'dense'`` builds each matrix, ``'fast'`` never does,
            ``'auto'`` (the default outside) decides by sizes.

    Raises:
        ValueError: If the name is none of these.
    """
    if formulation not in FORMULATIONS:
        raise ValueError(
            f'formulation must be one of {FORMULATIONS}, but got {formulation!r}'
        )
    global _formulation
    previous, _formulation = _formulation, formulation
    try:
        yield
    finally:
        _formulation = previous


def formulation() -> str:
    """The formulation in force: 'auto', 'dense' or 'fast'."""
    return _formulation


@contextmanager
def debug() -> Iterator[None]:
    """Also check what costs a pass over the data: non-negative features."""
    global _debug
    previous, _debug = _debug, True
    try:
        yield
    finally:
        _debug = previous


def debugging() -> bool:
    """Whether checks that read the data are on."""
    return _debug


def use_dense(affinity: Affinity, depth: int) -> bool:
    """Whether to build the matrix to apply it to ``depth`` channels."""
    if _formulation != 'auto':
        return _formulation == 'dense'
    return affinity._dense_is_cheaper(depth)


def is_open(size: int) -> bool:
    """Whether a graph is being captured that serves any such size."""
    return isinstance(size, torch.SymInt)


def nominal(batch: int) -> int:
    """The batch size that rules count with: 8 where it is open.

    A rule that asked for an open size would bind the captured graph to its answer.
    """
    return 8 if is_open(batch) else batch


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half-precision tensors in float32: sums over positions overflow float16."""
    return tensor.float() if tensor.dtype in (torch.half, torch.bfloat16) else tensor


def full_precision(device: torch.device) -> AbstractContextManager:
    """A context in which autocast leaves precision alone."""
    if not autocasts(device):
        return nullcontext()  # an autocast context costs as much as a small product
    return torch.autocast(device.type, enabled=False)


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device."""
    if device.type not in ('cpu', 'cuda'):
        return False
    try:
        return torch.is_autocast_enabled(device.type)
    except TypeError:  # torch below 2.4 has a function for each
        name = 'cpu_enabled' if device.type == 'cpu' else 'enabled'
        return getattr(torch, f'is_autocast_{name}')()
