# Copyright (c) The nl_plugins authors. All rights reserved.
"""Peak memory and the end of a computation, on any device."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def synchronize(device: str = 'cpu') -> None:
    """Wait until a device has done what was started on it."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def peak_memory(function: Callable[[], object], device: str = 'cpu') -> int:
    """Largest number of bytes that ``function()`` held beyond what existed before.

    On a CPU every allocation of torch's allocator is followed through the profiler,
    those inside fused kernels included; on CUDA the allocator's own peak is read.

    Args:
        function (Callable): What to run; its result is kept until the end.
        device (str): ``'cpu'`` or a CUDA device. Defaults to ``'cpu'``.

    Returns:
        int: Bytes.
    """
    gc.collect()
    if torch.device(device).type == 'cuda':
        synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = function()
        synchronize(device)
        del result
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # it announces itself, and no GPU
    _let_the_allocator_warn()
    with _followed() as profiler:
        result = function()
    del result
    held = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=_start):
        if event.name() == '[memory]':
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def _followed() -> profile:
    return profile(activities=[ProfilerActivity.CPU], profile_memory=True)


@functools.cache
def _let_the_allocator_warn() -> None:
    """Have torch say unheard, as it does once, that it frees what it did not follow.

    Its C++ writes to the file descriptor, past sys.stderr and Python's warnings.
    """
    older = torch.empty(1)
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with _followed():
            del older
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _start(event) -> int:
    # torch before 2.4 counts in microseconds.
    return event.start_ns() if hasattr(event, 'start_ns') else event.start_us()
