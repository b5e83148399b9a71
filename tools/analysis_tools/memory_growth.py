# Copyright (c) The nl_plugins authors. All rights reserved.
"""How the memory of each affinity grows with the number of positions.

    python tools/analysis_tools/memory_growth.py --width 16 --depth 16
    python tools/analysis_tools/memory_growth.py --width 2048 --depth 1024

Prints the peak of a forward and of a forward and backward pass beyond query, key and
values, in MiB, at each number of positions, and the exponent e of N^e that fits them.
Affinities whose time grows with N² stop at ``--quadratic`` positions.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

import nl_plugins  # noqa: F401  (repairs upstream before mm packages are imported)
from nl_plugins import graph
from nl_plugins.analysis.memory import peak_memory

QUADRATIC = ('softmax', 'softmax, query = key', 'relu')


def build(name: str, query: Tensor, key: Tensor) -> graph.Affinity:
    """The affinity called ``name`` of query and key (1, N, C)."""
    positions = query.shape[1]
    if name == 'softmax':
        return graph.SoftmaxAffinity(query, key)
    if name == 'softmax, query = key':
        return graph.SoftmaxAffinity(query, query)
    if name == 'relu':
        return graph.ReLUAffinity(query, key)
    if name == 'dot':
        return graph.DotAffinity(query, key)
    if name == 'concatenation':
        return graph.ConcatAffinity(query[..., 0], key[..., 0])
    if name == 'symmetric':
        return graph.SymmetricAffinity(query.relu(), key.relu())
    if name == 'criss-cross':
        height = 2 ** (int(math.log2(positions)) // 2)
        return graph.CrissCrossAffinity(query, key, (height, positions // height))
    if name == 'unary':
        return graph.UnaryAffinity(key[..., 0], positions)
    return graph.CompactAffinity(query[..., :1], key[..., :1], (1.0, 1.0, 0.5))


NAMES = (
    *QUADRATIC,
    *('dot', 'concatenation', 'symmetric', 'criss-cross', 'unary', 'compact'),
)


def peak(name: str, positions: int, args: argparse.Namespace, backward: bool) -> float:
    """MiB of one pass."""
    # Channel-first in memory, as the projections of a feature map are.
    query, key, values = (
        torch.randn(1, channels, positions).mul_(channels**-0.25).mT.requires_grad_()
        for channels in (args.width, args.width, args.depth)
    )

    def run() -> Tensor | None:
        with torch.set_grad_enabled(backward):
            out = build(name, query, key) @ values
        return out.sum().backward() if backward else out

    return peak_memory(run) / 2**20


def exponent(positions: list[int], peaks: list[float]) -> float:
    """Slope of the line through the logarithms."""
    x = torch.tensor(positions).double().log2()
    y = torch.tensor(peaks).double().log2()
    x = x - x.mean()
    return ((x * y).sum() / (x * x).sum()).item()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--width', type=int, default=16, help='of query and key')
    parser.add_argument('--depth', type=int, default=16, help='of the values')
    parser.add_argument(
        '--positions', type=int, nargs='+', default=[2**k for k in range(11, 17)]
    )
    parser.add_argument(
        '--quadratic', type=int, default=2**16, help='most positions of these kinds'
    )
    parser.add_argument('--affinities', nargs='+', choices=NAMES, default=list(NAMES))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    print(f'width {args.width}, depth {args.depth}, torch {torch.__version__}')
    print('| affinity | pass |', *(f'{n} |' for n in args.positions), 'exponent |')
    print('|---' * (len(args.positions) + 3) + '|')
    for name in args.affinities:
        limit = args.quadratic if name in QUADRATIC else math.inf
        positions = [n for n in args.positions if n <= limit]
        for backward in (False, True):
            peaks = [peak(name, n, args, backward) for n in positions]
            cells = [f'{p:.1f}' for p in peaks]
            cells += ['–'] * (len(args.positions) - len(cells))
            label = 'forward and backward' if backward else 'forward'
            print(
                f'| {name} | {label} |',
                *(f'{cell} |' for cell in cells),
                f'{exponent(positions, peaks):.2f} |',
                flush=True,
            )


if __name__ == '__main__':
    main()
