# Copyright (c) The nl_plugins authors. All rights reserved.
"""Measure what this machine does in a second, for the planner of ``nl_plugins.graph``.

    python tools/analysis_tools/calibrate.py rates.json
    NL_PLUGINS_MACHINE=rates.json python tools/train.py CONFIG

Takes less than a minute. The planner chooses well with rates that are wrong by three,
so the built-in table does for most machines; ``nl_plugins.explain`` shows what it
makes of them. The rates of half precision on a CPU are those of float32, in which it
is computed there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from benchmark import best_times  # noqa: E402
from gpu_checks.section import products  # noqa: E402

from nl_plugins.files import write_text  # noqa: E402
from nl_plugins.graph.machine import VARIABLE, machine_of  # noqa: E402

#: Precision of the table -> that of ``products``, dtype.
PRECISIONS = {
    'float32': ('fp32', torch.float32),
    'tf32': ('tf32', torch.float32),
    'half': ('bf16', torch.bfloat16),
    'float64': ('fp32', torch.float64),
}


def measure(device: str) -> dict[str, dict[str, float]]:
    """Rates of a device by ``'device class/precision'``."""
    cuda = device != 'cpu'
    kind = torch.device(device).type
    found = {}
    for precision, (setting, dtype) in PRECISIONS.items():
        if not cuda and precision in ('tf32', 'half'):
            continue
        with products(setting):
            rates = _rates(device, dtype, 4096 if cuda else 1024)
        cached = machine_of(kind, precision).cache // 4
        itemsize = torch.empty(0, dtype=dtype).element_size()
        rates['cached_bytes'] = _copied(device, dtype, cached // itemsize // 2)
        rates['moved_bytes'] = _copied(device, dtype, 2 ** (28 if cuda else 25))
        found[f'{kind}/{precision}'] = {**rates, 'measured': True}
        print(f'{kind}/{precision}: {json.dumps(rates)}', flush=True)
    if not cuda:
        found['cpu/half'] = found['cpu/float32']
    return found


def _rates(device: str, dtype: torch.dtype, size: int) -> dict[str, float]:
    a, b = torch.randn(2, 1, size, size, device=device).to(dtype)
    small = a[:, :4, :4].contiguous()
    query = torch.randn(1, 8, size, 64, device=device).to(dtype)

    product = size**3 / _seconds(device, lambda: torch.bmm(a, b))
    calls = _seconds(device, lambda: [torch.bmm(small, small) for _ in range(200)])
    with torch.no_grad():
        fused = _seconds(
            device, lambda: F.scaled_dot_product_attention(query, query, query)
        )
    attention = 2 * query.shape[1] * size**2 * query.shape[3] / fused
    return {
        'multiply_adds': product,
        # Of Python around an operator as much again.
        'call': 2 * calls / 200,
        'attention': min(attention / product, 1.0),
    }


def _copied(device: str, dtype: torch.dtype, count: int) -> float:
    a = torch.ones(count, device=device, dtype=dtype)
    b = torch.empty_like(a)
    taken = _seconds(device, lambda: b.copy_(a))
    return 2 * a.numel() * a.element_size() / taken


def _seconds(device: str, run: Callable) -> float:
    return best_times({'run': run}, 0.7, device, time.perf_counter)['run']


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, help='the file to write')
    parser.add_argument('--device', default='cpu', help='cpu (the default) or cuda')
    args = parser.parse_args(arguments)
    if not args.out.parent.is_dir():
        parser.error(f'{args.out.parent} is no folder: make it, or name another file')
    if args.device != 'cpu' and not torch.cuda.is_available():
        parser.error(
            f'torch finds no CUDA device, so --device {args.device} is not one'
        )
    rates = measure(args.device)
    write_text(args.out, json.dumps(rates, indent=1) + '\n')
    print(f'{VARIABLE}={args.out} makes the planner use them')


if __name__ == '__main__':
    main()
