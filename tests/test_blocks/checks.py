# Copyright (c) The nl_plugins authors. All rights reserved.
"""What must hold for every block, as functions of a class, a variant and ndim."""

from __future__ import annotations

import copy
import gc
import math
import pickle

import mmengine.model
import torch
import torch.nn as nn
from mmcv.cnn.bricks import build_plugin_layer
from mmengine.registry import MODELS
from torch import Tensor

from nl_plugins.blocks import BLOCKS, NonLocalBlock
from nl_plugins.graph import force

WIDTH = 16
# Odd sizes, all different, at least 2 where a pool halves them.
SIZES = {1: (7,), 2: (5, 3), 3: (2, 3, 5)}


def cases(*, ndims: tuple[int, ...] = (1, 2, 3)) -> list[tuple[str, str, int]]:
    """(class name, variant, ndim) of every block."""
    return [
        (name, variant, ndim)
        for name, block in BLOCKS.items()
        for variant in block.variants
        for ndim in ndims
        if ndim in block.ndims
    ]


def build(
    block: type[NonLocalBlock],
    variant: str | dict,
    ndim: int,
    randomise: bool = True,
) -> NonLocalBlock:
    """A block in float64; ``randomise`` draws every parameter and statistic."""
    torch.manual_seed(0)
    options = variant if isinstance(variant, dict) else block.variants[variant]
    module = block(WIDTH, ndim=ndim, **options).double()
    if randomise:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.4)
        for name, buffer in module.named_buffers():
            if name.endswith('running_mean'):
                nn.init.normal_(buffer, std=0.3)
            elif name.endswith('running_var'):
                nn.init.uniform_(buffer, 0.5, 1.5)
    return module


def sample(ndim: int, batch: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, WIDTH, *SIZES[ndim], dtype=torch.double)


def large_sample(ndim: int) -> Tensor:
    """More positions than the dense formulation takes by itself, in float32."""
    return sample(ndim).float().repeat_interleave(7, dim=-1)


def value_and_gradients(function, x: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """f(x), df/dx and df/dparameters for one random cotangent."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = function(x)
    torch.manual_seed(2)
    cotangent = torch.randn(out.shape, dtype=out.dtype)
    wanted = [x, *parameters]
    gradients = torch.autograd.grad(out, wanted, cotangent, allow_unused=True)
    return [
        out.detach(),
        *(torch.zeros_like(p) if g is None else g for p, g in zip(wanted, gradients)),
    ]


def assert_same(actual: list[Tensor], expected: list[Tensor], tolerance=1e-10) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def check_fast_equals_dense(block, variant, ndim) -> None:
    module, x = build(block, variant, ndim), sample(ndim)
    parameters = list(module.parameters())
    results = []
    for formulation in ('fast', 'dense', 'auto'):
        with force(formulation):
            results.append(value_and_gradients(module, x, parameters))
    assert_same(results[0], results[1])
    assert_same(results[2], results[1])
    assert results[0][0].shape == x.shape
    assert any(gradient.abs().max() > 0 for gradient in results[0][2:])


def check_identity(block, variant, ndim) -> None:
    """At construction, after init_weights() twice, and inside a parent that draws."""
    x = sample(ndim)
    module = build(block, variant, ndim, randomise=False)
    redrawn = build(block, variant, ndim)
    redrawn.init_weights()
    redrawn.init_weights()
    kaiming = dict(type='Kaiming', layer=['Conv1d', 'Conv2d', 'Conv3d', 'Linear'])
    ones = dict(type='Constant', val=1.0, layer=['_BatchNorm', 'GroupNorm'])
    child = build(block, variant, ndim)
    mmengine.model.Sequential(child, init_cfg=[kaiming, ones]).init_weights()
    for candidate in (module, redrawn, child):
        for training in (True, False):
            candidate.train(training)
            assert torch.equal(candidate(x), x) == module.starts_as_identity


def check_affinity(block, variant, ndim) -> None:
    module, x = build(block, variant, ndim), sample(ndim)
    affinity = module.affinity(x)
    _, queries, keys = affinity.shape
    assert math.prod(module.key_grid(tuple(x.shape[2:]))) == keys
    dense = affinity.dense()
    assert dense.shape == affinity.shape
    index = [0, queries - 1, queries // 2]
    torch.testing.assert_close(affinity.rows(index), dense[:, index])


def check_copies(block, variant, ndim) -> None:
    module, x = build(block, variant, ndim).eval(), sample(ndim)
    expected = module(x)
    assert torch.equal(copy.deepcopy(module)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), expected)
    other = block(WIDTH, ndim=ndim, **block.variants[variant]).double().eval()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), expected)


def check_plugin(block, variant, ndim) -> None:
    """In mmengine's root registry, and buildable as a plugin under its own name."""
    assert MODELS.get(block.__name__) is block
    cfg = dict(type=block.__name__, ndim=ndim, **block.variants[variant])
    name, module = build_plugin_layer(cfg, in_channels=WIDTH, postfix='_1')
    assert name == f'{block._abbr_}_1'
    assert type(module) is block


def check_parameters(block, variant, ndim) -> None:
    """Each parameter is in a layer that optimiser constructors know."""
    known = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.GroupNorm)
    known += (nn.modules.batchnorm._BatchNorm,)
    module = build(block, variant, ndim)
    held = [
        parameter
        for layer in module.modules()
        if isinstance(layer, known)
        for parameter in layer.parameters()
    ]
    assert len(held) == len({id(parameter) for parameter in held})
    assert {id(p) for p in held} == {id(p) for p in module.parameters()}


def check_autocast(block, variant, ndim) -> None:
    """bfloat16 stays close to float32, and every gradient is finite."""
    module, x = build(block, variant, ndim).float(), large_sample(ndim)
    expected = module(x)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        out = module(x)
    out.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    error = (out - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 0.2


def check_half_precision(block, variant, ndim) -> None:
    """A block cast to bfloat16 stays in it and close to float32."""
    module = build(block, variant, ndim).float().eval()
    x = large_sample(ndim)
    expected = module(x)
    out = module.bfloat16()(x.bfloat16())
    assert out.dtype == torch.bfloat16
    error = (out - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 0.2


def check_second_derivative(block, variant, ndim) -> None:
    """That of the fast form through the residual sum is that of the dense form."""
    module, x = build(block, variant, ndim).eval(), sample(ndim).requires_grad_()
    found = []
    for formulation in ('fast', 'dense'):
        with force(formulation):
            loss = module(x).square().sum()
            (first,) = torch.autograd.grad(loss, x, create_graph=True)
            found += torch.autograd.grad(first.square().sum(), x)
    assert_same(found[:1], found[1:], 1e-8)


def check_forward_mode(block, variant, ndim) -> None:
    """The derivative along a direction is that of finite differences."""
    module, x = build(block, variant, ndim).eval(), sample(ndim)
    step = 1e-6 * torch.cos(x)
    with torch.no_grad():
        expected = (module(x + step) - module(x - step)) / 2
    _, found = torch.func.jvp(module, (x,), (step,))
    torch.testing.assert_close(found / 1e-6, expected / 1e-6, rtol=1e-5, atol=1e-4)


def check_trace(block, variant, ndim) -> None:
    """A block traced with gradients takes maps of other sizes, and can be trained."""
    module, x = build(block, variant, ndim).eval(), sample(ndim)
    traced = torch.jit.trace(module, x)  # checked by a trace without gradients
    larger = torch.cat([x, x.flip(-1)], dim=-1).requires_grad_()
    outs = traced(larger), module(larger)
    slopes = [torch.autograd.grad(out.square().sum(), larger)[0] for out in outs]
    # Sizes are tensors while tracing, and 1 / M of an integer tensor is float32.
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-3)


def check_memory_is_free_at_once(block, variant, ndim) -> None:
    """No map of a pass waits for Python's collector of circles."""
    module, x = build(block, variant, ndim), sample(ndim).requires_grad_()
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad():
            module.eval()(x)
        module.train()(x).sum().backward()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [type(each) for each in gc.garbage if isinstance(each, Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left


ALL = (
    check_fast_equals_dense,
    check_identity,
    check_affinity,
    check_copies,
    check_plugin,
    check_parameters,
    check_autocast,
    check_half_precision,
    check_second_derivative,
    check_forward_mode,
    check_trace,
    check_memory_is_free_at_once,
)
