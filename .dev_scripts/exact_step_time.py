# Copyright (c) The nl_plugins authors. All rights reserved.
"""What exact gradients of softmax blocks cost: a training step with and without.

    python .dev_scripts/exact_step_time.py

The backward pass in tiles takes from every slope the weighted mean of its row, summed
from the same rounded products. The usual way takes the sum of gradient times output,
which is one pass over the tile less and loses digits where one weight is near 1. Both
run in turns in one process; the usual way is stood in for by its cheapest form, whose
correction is a constant. Medians of the processor time of one thread, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

import nl_plugins  # noqa: F401
from nl_plugins.blocks import BLOCKS
from nl_plugins.graph.strategies import crossing, tiles

CASES = (
    ('NLBlock', {}, (1, 512, 64, 64)),
    ('NLBlock', dict(ndim=3), (1, 512, 8, 28, 28)),
    ('RNLBlock', dict(kernel_size=7), (1, 256, 56, 56)),
    ('DNLBlock', {}, (1, 512, 64, 64)),
    ('ANLBlock', {}, (1, 512, 96, 96)),
    ('CCBlock', {}, (1, 512, 96, 96)),
)
MODULES = (tiles, crossing)


def usual_slope(weights: Tensor, slope: Tensor, total: Tensor) -> Tensor:
    """One pass less than ``softmax_slope``, and wrong by the constant."""
    return slope.sub_(1).mul_(weights)


def step(block: torch.nn.Module, x: Tensor, slope) -> float:
    before = [module.softmax_slope for module in MODULES]
    for module in MODULES:
        module.softmax_slope = slope
    try:
        start = time.process_time()
        block(x).sum().backward()
        return time.process_time() - start
    finally:
        for module, function in zip(MODULES, before):
            module.softmax_slope = function


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--repeats', type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print('| block | input | exact, ms | usual, ms | ratio |\n|---|---|---|---|---|')
    for name, options, shape in CASES:
        torch.manual_seed(0)
        block = BLOCKS[name](shape[1], **options)
        x = torch.randn(shape, requires_grad=True)
        turns = [(tiles.softmax_slope, []), (usual_slope, [])]
        for _ in range(args.repeats):
            for slope, seconds in turns:
                seconds.append(step(block, x, slope))
        exact, usual = (1e3 * statistics.median(found[1:]) for _, found in turns)
        size = 'x'.join(map(str, shape))
        print(f'| {name} | {size} | {exact:.0f} | {usual:.0f} | {exact / usual:.3f} |')


if __name__ == '__main__':
    main()
