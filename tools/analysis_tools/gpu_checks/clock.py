# Copyright (c) The nl_plugins authors. All rights reserved.
"""Times, memory and kernels of a function on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from nl_plugins.analysis.memory import peak_memory, synchronize

from .section import HALF, products

# Words in the names of the kernels of fused attention.
_ATTENTION = ('flash', 'fmha', 'attention', 'sdpa')


def milliseconds(run: Callable, device: str, budget: float = 0.08) -> float:
    """Median time of ``run()`` in about ``budget`` seconds, after a warm-up.

    On CUDA events enclose several runs in a row, so that the host may hurry ahead as
    it does in training; where a run is bound by its launches, their time is seen.
    """
    run()
    synchronize(device)
    first = _once(run, device, 1)
    if first > 4e3 * budget:  # three more would take too long
        return first
    repeats = max(1, min(50, int(budget * 1e3 / 5 / max(first, 1e-3))))
    rounds = 5 if first * repeats < 400 * budget else 3
    return statistics.median(_once(run, device, repeats) for _ in range(rounds))


def _once(run: Callable, device: str, repeats: int) -> float:
    if device == 'cpu':
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - start) * 1e3 / repeats
    start, end = (torch.cuda.Event(enable_timing=True) for _ in '12')
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


def mebibytes(run: Callable, device: str) -> float:
    """Peak memory of ``run()`` beyond what existed before."""
    return peak_memory(run, device) / 2**20


def kernels(run: Callable) -> tuple[int, list[str]]:
    """How many CUDA kernels ``run()`` starts, and the names of those of attention."""
    from torch.profiler import ProfilerActivity, profile

    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    names = [
        event.name
        for event in profiler.events()
        if 'CUDA' in str(event.device_type)
        and not event.name.startswith(('Memset', 'Memcpy'))
    ]
    fused = {n[:70] for n in names if any(word in n.lower() for word in _ATTENTION)}
    return len(names), sorted(fused)


def rates(device: str) -> dict[str, float]:
    """The device's own: TFLOP/s of matrix products, GB/s of copies, us of a launch."""
    cuda = device != 'cpu'
    size = 8192 if cuda else 768
    found = {}
    for name in ('fp32', 'tf32', 'bf16', 'fp16') if cuda else ('fp32',):
        with products(name):
            a, b = torch.randn(2, size, size, device=device, dtype=HALF.get(name))
            taken = milliseconds(lambda a=a, b=b: a @ b, device, 0.3)
            found[name] = 2 * size**3 / taken / 1e9
    # Read and written: far larger than any cache, and small enough for that of a GPU.
    for name, count in (('copy', 2**28), ('cached_copy', 2**22)):
        a = torch.randn(count if cuda else 2**22, device=device)
        b = torch.empty_like(a)
        taken = milliseconds(lambda a=a, b=b: b.copy_(a), device, 0.2)
        found[name] = 8 * a.numel() / taken / 1e6
    one = torch.zeros(1, device=device)

    def launches() -> None:
        for _ in range(200):
            one.add_(1)

    found['launch'] = milliseconds(launches, device) / 200 * 1e3
    return found
