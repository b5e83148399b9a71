# Copyright (c) The nl_plugins authors. All rights reserved.
"""Random blocks, shapes, layouts and scales: are gradients as exact as the matrix's?

    python .dev_scripts/random_gradients.py --cases 3000

For each case the block runs in float32, as it is and with every affinity as a matrix,
and in float64 with the matrix. The result and every gradient must be finite where the
matrix's are, and within four times the error of the float32 matrix or 1e-5 relative,
whichever is larger. Nothing is compared where the matrix's own result exceeds float32,
nor a gradient of which the matrix has no digit (its error is above 1), because the true
one is nearly zero; such a gradient must be finite. Prints what does not hold, and the
count.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys

import torch
from torch import nn

import nl_plugins  # noqa: F401
from nl_plugins.blocks import BLOCKS
from nl_plugins.graph import force

WIDTHS = (16, 32, 64)
SIZES = {
    1: [(5,), (64,), (700,)],
    2: [(3, 4), (14, 14), (24, 30)],
    3: [(2, 3, 4), (4, 7, 7), (4, 12, 14)],
}


def draw(seed: int) -> tuple:
    """A block in eval mode, an input, and what they are."""
    generator = random.Random(seed)
    name = generator.choice(sorted(BLOCKS))
    block = BLOCKS[name]
    variant = generator.choice(sorted(block.variants))
    ndim = generator.choice(block.ndims)
    width = generator.choice(WIDTHS)
    size = generator.choice(SIZES[ndim])
    batch = generator.choice((1, 2, 3))
    scale = 10.0 ** generator.randint(-8, 8)
    layout = generator.choice(('', 'channels_last')) if ndim > 1 else ''
    torch.manual_seed(seed)
    module = block(width, ndim=ndim, **block.variants[variant]).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    x = torch.randn(batch, width, *size) * scale
    if layout:
        formats = {2: torch.channels_last, 3: torch.channels_last_3d}
        x = x.to(memory_format=formats[ndim])
    what = f'{name} {variant} {batch}x{width}x{size} scale {scale:g} {layout}'
    return module, x, what


def run(module: nn.Module, x: torch.Tensor, way: str) -> list[torch.Tensor]:
    """The result and the gradients of input and parameters for one cotangent."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    wanted = [x, *module.parameters()]
    with force(way):
        out = module(x)
        generator = torch.Generator().manual_seed(0)
        cotangent = torch.randn(out.shape, generator=generator).to(out.dtype)
        grads = torch.autograd.grad(out, wanted, cotangent, allow_unused=True)
    pairs = zip(wanted, grads)
    return [out.detach(), *(torch.zeros_like(w) if g is None else g for w, g in pairs)]


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm().clamp_min(1e-300)).item()


def check(seed: int) -> str | None:
    """What does not hold, or None."""
    module, x, what = draw(seed)
    ours, dense = run(module, x, 'auto'), run(module, x, 'dense')
    exact = run(copy.deepcopy(module).double(), x.double(), 'dense')
    if not dense[0].isfinite().all():
        return None
    largest = max(gradient.norm() for gradient in exact[1:])
    for index, (found, matrix, reference) in enumerate(zip(ours, dense, exact)):
        if index and reference.norm() < 1e-11 * largest:
            continue  # it is 0, and what is computed the rounding of float64
        if not matrix.isfinite().all() or not reference.isfinite().all():
            continue
        if not found.isfinite().all():
            return f'{what}: tensor {index} is not finite'
        if error(matrix, reference) > 1:
            continue
        allowed = max(4 * error(matrix, reference), 1e-5)
        off = error(found, reference)
        if off > allowed:
            return f'{what}: tensor {index} is {off:.2g} off, allowed {allowed:.2g}'
    return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--cases', type=int, default=3000)
    parser.add_argument('--seed', type=int, default=0, help='of the first case')
    args = parser.parse_args()
    wrong = 0
    for seed in range(args.seed, args.seed + args.cases):
        found = check(seed)
        if found is not None:
            wrong += 1
            print(f'seed {seed}: {found}', flush=True)
        if seed % 200 == 199:
            print(f'... {seed + 1 - args.seed} of {args.cases}', flush=True)
    print(f'{args.cases} cases, {wrong} do not hold')
    sys.exit(wrong > 0)


if __name__ == '__main__':
    main()
