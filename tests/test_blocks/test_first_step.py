# Copyright (c) The nl_plugins authors. All rights reserved.
"""A block that starts as the identity must be able to leave it."""

import pytest
import torch

from nl_plugins.blocks import BLOCKS

from .checks import build, cases, sample


@pytest.mark.parametrize('name, variant, ndim', cases(ndims=(2,)))
def test_a_new_block_has_a_gradient(name, variant, ndim):
    block = build(BLOCKS[name], variant, ndim, randomise=False)
    x = sample(ndim)
    for _ in range(2):  # the first step reaches the zeros, the second what is before
        block.zero_grad()
        block(x).square().mean().backward()
        with torch.no_grad():
            for parameter in block.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
    assert any(p.grad is not None and p.grad.any() for p in block.parameters())
    assert not torch.equal(block(x), x)
