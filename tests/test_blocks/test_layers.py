# Copyright (c) The nl_plugins authors. All rights reserved.
"""Whatever a user attaches to a layer acts, at every size: layers are layers.

The reference is the block itself while a hook that does nothing listens to all modules:
no weight may be read then, so every layer is called.
"""

import copy
from contextlib import contextmanager

import pytest
import torch
import torch.nn as nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from nl_plugins.blocks import BLOCKS
from nl_plugins.graph import force

from . import checks

SIZE = (6, 4)
CASES = [(name, variant) for name, variant, ndim in checks.cases(ndims=(2,))]
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
EXACT = dict(rtol=1e-9, atol=1e-9)


@contextmanager
def every_layer_called():
    """Yields the modules that were called."""
    called = []
    handle = register_module_forward_hook(lambda module, *_: called.append(module))
    try:
        yield called
    finally:
        handle.remove()


@pytest.fixture(params=['dense', 'fast'], autouse=True)
def formulation(request):
    """As on small maps and as on large ones."""
    with force(request.param):
        yield request.param


def build(name, variant):
    return checks.build(BLOCKS[name], variant, 2)


def layers(block, x):
    """Names of the modules that a forward pass calls, the block apart."""
    with every_layer_called() as called:
        block(x)
    seen = {id(module) for module in called}
    return [name for name, m in block.named_modules() if id(m) in seen and name]


def run(block, x):
    x = x.clone().requires_grad_()
    out = block(x)
    torch.manual_seed(2)
    parameters = [p for p in block.parameters() if p.requires_grad]
    grads = torch.autograd.grad(
        out, [x, *parameters], torch.randn_like(out), allow_unused=True
    )
    return [out.detach(), *(g for g in grads if g is not None)]


def assert_acts(block, x):
    """With the attachment, everything equals the block whose layers are called."""
    twin = copy.deepcopy(block)
    with every_layer_called():
        expected = run(twin, x)
    actual = run(block, x)
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one, other, **EXACT)
    return actual


def hook(module, inputs, output):
    return 0.5 * output


def pre_hook(module, inputs):
    return (inputs[0] * 0.5, *inputs[1:])


def backward_hook(module, grad_inputs, grad_outputs):
    return tuple(g if g is None else 0.5 * g for g in grad_inputs)


def backward_pre_hook(module, grad_outputs):
    return tuple(0.5 * g for g in grad_outputs)


HOOKS = {
    'forward hook': lambda layer: layer.register_forward_hook(hook),
    'forward pre-hook': lambda layer: layer.register_forward_pre_hook(pre_hook),
    'backward hook': lambda layer: layer.register_full_backward_hook(backward_hook),
    'backward pre-hook': lambda layer: layer.register_full_backward_pre_hook(
        backward_pre_hook
    ),
}
WEIGHTS = {
    'pruned': lambda conv: prune.l1_unstructured(conv, 'weight', 0.5),
    'spectral norm': spectral_norm,
    'weight norm': weight_norm,
    'parametrised': lambda conv: parametrizations.weight_norm(conv),
}


class Wrapper(nn.Module):
    """A layer beside another, as low-rank adapters and quantisers are."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return 0.5 * self.layer(x) + 0.1


@pytest.mark.parametrize('name, variant', CASES)
def test_called_layers_compute_the_formula(name, variant):
    block = build(name, variant)
    x = torch.randn(2, checks.WIDTH, *SIZE, dtype=torch.double)
    with every_layer_called() as called:
        expected = run(block, x)
    for one, other in zip(run(block, x), expected, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    seen = {id(module) for module in called}
    for layer in block.modules():
        assert id(layer) in seen or not list(layer.parameters(recurse=False))


@pytest.mark.parametrize('name, variant', CASES)
def test_hooks_act_on_every_layer(name, variant, formulation):
    x = torch.randn(2, checks.WIDTH, *SIZE, dtype=torch.double)
    block = build(name, variant)
    plain = run(block, x)
    for index, layer in enumerate(layers(block, x)):
        # In turn: all kinds meet all kinds of layers.
        kind = list(HOOKS)[(index + len(variant) + (formulation == 'fast')) % 4]
        block = build(name, variant)
        handle = HOOKS[kind](block.get_submodule(layer))
        changed = assert_acts(block, x)
        assert any(
            not torch.equal(a, b) for a, b in zip(changed, plain, strict=True)
        ), f'{kind} of {layer}'
        handle.remove()
        for one, other in zip(run(block, x), plain, strict=True):
            torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize('name, variant', CASES)
@pytest.mark.parametrize('kind', WEIGHTS)
def test_computed_weights_act(name, variant, kind):
    x = torch.randn(2, checks.WIDTH, *SIZE, dtype=torch.double)
    block = build(name, variant)
    convs = [n for n, layer in block.named_modules() if isinstance(layer, CONVS)]
    for layer in convs:
        if block.get_submodule(layer).weight.numel() == 1:
            continue  # the one number of a gate
        block = build(name, variant)
        WEIGHTS[kind](block.get_submodule(layer))
        block.eval()  # a spectral norm draws nothing then
        block(x).sum().backward()
        assert_acts_without_copies(block, x)


def assert_acts_without_copies(block, x):
    # A pruned layer can be copied only without its graph.
    with torch.no_grad():
        with every_layer_called():
            expected = block(x)
        torch.testing.assert_close(block(x), expected, **EXACT)
    for _ in range(2):  # never "backward a second time"
        block(x).sum().backward()


@pytest.mark.parametrize('name, variant', CASES)
def test_replaced_layers_are_called(name, variant):
    x = torch.randn(2, checks.WIDTH, *SIZE, dtype=torch.double)
    for layer in layers(build(name, variant), x):
        block = build(name, variant)
        parent, _, child = layer.rpartition('.')
        setattr(block.get_submodule(parent), child, Wrapper(block.get_submodule(layer)))
        assert_acts(block, x)


@pytest.mark.parametrize('name', BLOCKS)
def test_weights_load_into_a_pruned_copy(name):
    x = torch.randn(2, checks.WIDTH, *SIZE, dtype=torch.double)
    one, other = (build(name, next(iter(BLOCKS[name].variants))) for _ in range(2))
    for block in (one, other):
        for layer in block.modules():
            if isinstance(layer, CONVS):
                prune.random_unstructured(layer, 'weight', 0.3)
    other.load_state_dict(one.state_dict())
    one, other = one.eval(), other.eval()
    with torch.no_grad():
        one(x), other(x)
        torch.testing.assert_close(one(x), other(x), **EXACT)


@pytest.mark.parametrize('name, variant', CASES)
def test_inference_writes_into_nothing_of_the_users(name, variant):
    """Results may be written in place, over results only; a bias has the shape of one
    position's result."""
    options = dict(BLOCKS[name].variants[variant])
    if name == 'NLBlock' and options.get('mode') == 'concatenation':
        options['concat_bias'] = True
    pooled = options.get('sub_sample') or options.get('pool')
    x = torch.randn(1, checks.WIDTH, *((2, 2) if pooled else (1, 1))).double()
    with torch.no_grad():
        for hooked in [None, *layers(checks.build(BLOCKS[name], options, 2).eval(), x)]:
            block = checks.build(BLOCKS[name], options, 2).eval()
            if hooked is not None:
                block.get_submodule(hooked).register_forward_hook(lambda *_: None)
            before, given = copy.deepcopy(block.state_dict()), x.clone()
            first, second = block(given).clone(), block(given)
            assert torch.equal(first, second) and torch.equal(given, x)
            for key, value in block.state_dict().items():
                assert torch.equal(value, before[key]), (hooked, key)
