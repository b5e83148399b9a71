# Copyright (c) The nl_plugins authors. All rights reserved.
"""What only a card can show: python -m pytest tests/test_cuda.py --device cuda."""

import copy

import pytest
import torch

from nl_plugins import graph
from nl_plugins.blocks import BLOCKS

pytestmark = [
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason='needs a CUDA device: there is none'
    )
]
WIDTH = 32
SHAPES = {2: (2, WIDTH, 20, 24), 3: (2, WIDTH, 4, 10, 12)}
CASES = [
    pytest.param(name, variant, id=f'{name}-{variant}')
    for name, block in BLOCKS.items()
    for variant in block.variants
]
every_variant = pytest.mark.parametrize('name, variant', CASES)


@pytest.fixture(autouse=True)
def on_the_card():
    before = torch.get_default_device()
    torch.set_default_device('cuda')
    yield
    torch.set_default_device(before)


@pytest.fixture
def no_tf32(monkeypatch):
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
        monkeypatch.setattr(backend, 'allow_tf32', False)


def block(name, variant, ndim=2):
    torch.manual_seed(0)
    module = BLOCKS[name](WIDTH, ndim=ndim, **BLOCKS[name].variants[variant])
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return module


def sample(ndim=2):
    torch.manual_seed(1)
    return torch.randn(SHAPES[ndim])


def step(module, x, dtype=None):
    """Result and gradients of one training step."""
    x = x.detach().requires_grad_()
    with torch.autocast('cuda', dtype=dtype or torch.half, enabled=dtype is not None):
        out = module(x)
    wanted = [x, *module.parameters()]
    grads = torch.autograd.grad(out.float().square().mean(), wanted, allow_unused=True)
    return [out.detach(), *(g for g in grads if g is not None)]


def error(found, expected):
    expected = expected.double().to(found.device)
    return ((found.double() - expected).norm() / expected.norm().clamp_min(1e-9)).item()


@every_variant
@pytest.mark.parametrize('ndim', [2, 3])
def test_as_exact_as_on_the_cpu(name, variant, ndim, no_tf32):
    module, x = block(name, variant, ndim), sample(ndim)
    exact = copy.deepcopy(module).double()(x.double())
    with torch.no_grad():
        for training in (True, False):
            module.train(training)
            on_cpu = copy.deepcopy(module).cpu()(x.cpu())
            found = module(x)
            assert found.is_cuda
            assert error(found, on_cpu) < 1e-4
    assert error(block(name, variant, ndim)(x), exact) < 1e-4


@every_variant
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_autocast_is_no_worse_than_the_matrix(name, variant, dtype, no_tf32):
    module, x = block(name, variant), sample()
    with graph.force('dense'):
        exact = step(copy.deepcopy(module).double(), x.double())
        dense = step(copy.deepcopy(module), x, dtype)
    ours = step(copy.deepcopy(module), x, dtype)
    eps = torch.finfo(dtype).eps
    for found, by_matrix, expected in zip(ours, dense, exact, strict=True):
        assert found.isfinite().all()
        assert error(found, expected) <= max(8 * eps, 3 * error(by_matrix, expected))


@every_variant
def test_float16_holds_what_float32_holds(name, variant):
    module = BLOCKS[name](256, **BLOCKS[name].variants[variant]).train()
    x = torch.randn(2, 256, 64, 128).relu()
    with torch.no_grad():
        plain = module(x)
        with torch.autocast('cuda', torch.half):
            half = module(x)
    assert plain.isfinite().all() and half.isfinite().all()


@every_variant
def test_the_host_never_waits(name, variant):
    module, x = block(name, variant), sample()
    step(module, x)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        step(module, x)
    finally:
        torch.cuda.set_sync_debug_mode('default')


@every_variant
def test_deterministic_mode_repeats_every_bit(name, variant, monkeypatch):
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    module, x = block(name, variant), sample()
    torch.use_deterministic_algorithms(True)
    try:
        for one, other in zip(step(module, x), step(module, x), strict=True):
            assert torch.equal(one, other)
    finally:
        torch.use_deterministic_algorithms(False)


@every_variant
@pytest.mark.parametrize('ndim', [2, 3])
def test_channels_last_stays(name, variant, ndim):
    layout = (torch.channels_last, torch.channels_last_3d)[ndim - 2]
    module = block(name, variant, ndim).to(memory_format=layout)
    x = sample(ndim).contiguous(memory_format=layout)
    assert module(x).is_contiguous(memory_format=layout)
    with torch.no_grad():
        assert module(x).is_contiguous(memory_format=layout)


@every_variant
def test_a_graph_captures_forward_and_backward(name, variant):
    module, x = block(name, variant), sample()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(module, x)
    torch.cuda.current_stream().wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        captured = step(module, x)
    x.mul_(0.5)  # or a graph of nothing would pass
    recorded.replay()
    for found, expected in zip(captured, step(module, x), strict=True):
        assert error(found, expected) < 1e-4


def test_a_batch_of_images_reaches_the_card_without_a_wait():
    pytest.importorskip('mmpretrain')
    from mmpretrain.structures import DataSample

    from nl_plugins.classification import BatchAugmentDataPreprocessor

    preprocessor = BatchAugmentDataPreprocessor(mean=[120.0] * 3, std=[60.0] * 3).cuda()
    with torch.device('cpu'):
        images = torch.randint(256, (128, 3, 32, 32), dtype=torch.uint8)
        samples = [DataSample().set_gt_label(i % 10) for i in range(128)]
    for inputs in (list(images), images.pin_memory()):
        torch.cuda.set_sync_debug_mode('error')
        try:
            out = preprocessor(dict(inputs=inputs, data_samples=samples), True)
        finally:
            torch.cuda.set_sync_debug_mode('default')
        assert out['inputs'].is_cuda
        assert [int(s.gt_label) for s in out['data_samples']] == [
            i % 10 for i in range(128)
        ]
