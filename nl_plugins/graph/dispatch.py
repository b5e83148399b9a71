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


def use_dense(affinity: Affinity, depth: int, times: int = 1) -> bool:
    """Whether to build the matrix to apply it ``times`` times to ``depth`` channels."""
    if _formulation != 'auto':
        return _formulation == 'dense'
    batch, queries, keys = affinity.shape
    # Every time the operator takes more calls than the matrix.
    limit = 112 if times == 2 else 144 + 128 / nominal(batch)
    if times > 1 and max(queries, keys) <= limit:
        return True
    return affinity._dense_is_cheaper(depth * times)


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


def is_full_precision(tensor: Tensor) -> bool:
    """Whether neither its dtype nor autocast asks for half precision."""
    return tensor.dtype in (torch.float32, torch.float64) and not autocasts(
        tensor.device
    )


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device."""
    if device.type not in ('cpu', 'cuda'):
        return False
    try:
        return torch.is_autocast_enabled(device.type)
    except TypeError:  # torch below 2.4 has a function for each
        name = 'cpu_enabled' if device.type == 'cpu' else 'enabled'
        return getattr(torch, f'is_autocast_{name}')()
