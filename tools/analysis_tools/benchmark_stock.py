# Copyright (c) The nl_plugins authors. All rights reserved.
"""The codebases' own non-local modules with and without ``nl_plugins.accelerate``.

    python tools/analysis_tools/benchmark_stock.py
    python tools/analysis_tools/benchmark_stock.py --only DAHead NLHead --device cuda

Each module at its published widths and at the sizes of its standard crop, one sample,
with random weights; the two computations take turns in one process on the same input,
the best of the repeats counts. Prints the table of docs/en/accelerate.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch  # noqa: E402
from benchmark import CLOCKS, best_times  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from nl_plugins import accelerate  # noqa: E402
from nl_plugins.analysis.memory import peak_memory  # noqa: E402

ATTENTION = dict(
    channels=256, conv_cfg=None, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')
)
CROP = (1, 512, 64, 128)  # 512 x 1024 at stride 8
RES4 = (1, 256, 50, 84)  # 800 x 1333 at stride 16


class Stock(NamedTuple):
    """A module of a codebase as its configs use it.

    Attributes:
        make (Callable): Builds it.
        shapes (tuple): Of its inputs.
        keys (int): Positions that a query sees.
    """

    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    keys: int


def _of(module: str, name: str, *args, **options) -> Callable[[], nn.Module]:
    return lambda: getattr(import_module(module), name)(*args, **options)


_HEADS = 'mmseg.models.decode_heads'
MODULES = {
    'NLHead': Stock(_of('mmcv.cnn', 'NonLocal2d', 512), (CROP,), 8192),
    'DNLHead': Stock(
        _of(f'{_HEADS}.dnl_head', 'DisentangledNonLocal2d', 512, temperature=0.05),
        (CROP,),
        8192,
    ),
    'DAHead': Stock(_of(f'{_HEADS}.da_head', 'PAM', 512, 64), (CROP,), 8192),
    'ANNHead': Stock(
        _of(
            f'{_HEADS}.ann_head',
            'APNB',
            in_channels=512,
            out_channels=512,
            query_scales=(1,),
            key_pool_scales=(1, 3, 6, 8),
            **ATTENTION,
        ),
        (CROP,),
        110,
    ),
    'OCRHead': Stock(
        _of(
            f'{_HEADS}.ocr_head',
            'ObjectAttentionBlock',
            in_channels=512,
            scale=1,
            **ATTENTION,
        ),
        (CROP, (1, 512, 19, 1)),
        19,
    ),
    'ISAHead, global': Stock(
        _of(f'{_HEADS}.isa_head', 'SelfAttentionBlock', in_channels=512, **ATTENTION),
        ((64, 512, 8, 16),),
        128,
    ),
    'ISAHead, local': Stock(
        _of(f'{_HEADS}.isa_head', 'SelfAttentionBlock', in_channels=512, **ATTENTION),
        ((128, 512, 8, 8),),
        64,
    ),
    'BFP (Libra R-CNN)': Stock(
        _of('mmcv.cnn', 'NonLocal2d', 256, reduction=1, use_scale=False),
        (RES4,),
        4200,
    ),
    'GeneralizedAttention 1111': Stock(
        _of(
            'mmcv.cnn.bricks.generalized_attention',
            'GeneralizedAttention',
            256,
            num_heads=8,
            attention_type='1111',
        ),
        (RES4,),
        1050,
    ),
}


def measure(name: str, args: argparse.Namespace) -> list[str]:
    """The cells of one module's row."""
    stock = MODULES[name]
    torch.manual_seed(0)
    module = stock.make().to(args.device).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.02)
    inputs = [torch.randn(shape, device=args.device) for shape in stock.shapes]
    clock, results = CLOCKS[args.clock], {}

    def forward() -> Tensor:
        with torch.no_grad():
            return module(*inputs)

    def step() -> None:
        values = [x.clone().requires_grad_() for x in inputs]
        module(*values).square().sum().backward()
        module.zero_grad(set_to_none=True)

    def under(applied: bool, function: Callable):
        (accelerate.apply if applied else accelerate.undo)()
        return function()

    for function in (forward, step):
        runs = {kind: partial(under, kind, function) for kind in (False, True)}
        seconds = best_times(runs, args.seconds, args.device, clock)
        memory = {kind: peak_memory(run, args.device) for kind, run in runs.items()}
        results[function] = seconds, memory
    plain, fast = under(False, forward), under(True, forward)
    batch, positions = stock.shapes[0][0], stock.shapes[0][2] * stock.shapes[0][3]
    heads = getattr(module, 'num_heads', 1)
    cells = [name, f'{4 * batch * heads * positions * stock.keys / 2**20:,.1f} MiB']
    for seconds, memory in results.values():
        cells.append(f'{seconds[False] * 1e3:,.0f} → {seconds[True] * 1e3:,.0f} ms')
        cells.append(f'{memory[False] / 2**20:,.0f} → {memory[True] / 2**20:,.0f} MiB')
    error = ((plain - fast).abs().max() / plain.abs().max()).item()
    return [*cells, f'{error:.0e}']


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--only', nargs='+', choices=MODULES, default=list(MODULES))
    parser.add_argument('--device', default='cpu', help='(%(default)s)')
    parser.add_argument('--clock', choices=CLOCKS, default='cpu', help='(%(default)s)')
    parser.add_argument(
        '--seconds', type=float, default=2, help='for each computation (%(default)s)'
    )
    args = parser.parse_args(argv)
    titles = ['module', 'weights', 'forward', 'memory', 'training step', 'memory']
    print('| ' + ' | '.join([*titles, 'difference']) + ' |')
    print('|---' * (len(titles) + 1) + '|')
    for name in args.only:
        print('| ' + ' | '.join(measure(name, args)) + ' |', flush=True)
    accelerate.undo()


if __name__ == '__main__':
    main()
