# Copyright (c) The nl_plugins authors. All rights reserved.
"""What a GPU would run, seen without one: every block on fake CUDA tensors."""

from functools import partial

import pytest
import torch

from nl_plugins import graph
from nl_plugins.blocks import BLOCKS
from nl_plugins.compat.repair import release

pytestmark = pytest.mark.skipif(
    release(torch.__version__) < (2, 5),
    reason='torch below 2.5 shows neither shapes of a backward graph nor its autocast',
)
recorded = pytest.importorskip('test_blocks.recorded')
AFFINITIES = pytest.importorskip('test_graph.cases').CASES

WIDTH = 32
SHAPES = {1: (2, WIDTH, 40), 2: (128, WIDTH, 16, 16), 3: (4, WIDTH, 4, 6, 8)}

#: Operators for which the host waits: they ask what a tensor holds.
SYNCHRONISING = {
    '_linalg_check_errors',
    '_local_scalar_dense',
    '_unique2',
    'bincount',
    'equal',
    'histc',
    'is_nonzero',
    'linalg_eig',
    'linalg_eigh',
    'linalg_svd',
    'masked_select',
    'median',
    'nonzero',
    'repeat_interleave',
    'unique_consecutive',
    'unique_dim',
}
#: What torch.use_deterministic_algorithms refuses on CUDA in some release since 2.1,
#: and what the documentation names as not repeating itself.
NOT_DETERMINISTIC = {
    '_adaptive_avg_pool2d_backward',
    '_adaptive_avg_pool3d_backward',
    '_ctc_loss_backward',
    '_embedding_bag_dense_backward',
    'adaptive_max_pool2d_backward',
    'adaptive_max_pool3d_backward',
    'avg_pool3d_backward',
    'bincount',
    'cumprod',
    'cumsum',
    'cumsum_',
    'fractional_max_pool2d_backward',
    'fractional_max_pool3d_backward',
    'grid_sampler_2d_backward',
    'grid_sampler_3d_backward',
    'histc',
    'kthvalue',
    'logcumsumexp',
    'max_pool3d_with_indices_backward',
    'max_unpool2d',
    'max_unpool3d',
    'median',
    'nll_loss2d_forward',
    'put_',
    'reflection_pad1d_backward',
    'reflection_pad2d_backward',
    'reflection_pad3d_backward',
    'replication_pad1d_backward',
    'replication_pad2d_backward',
    'replication_pad3d_backward',
    'scatter_reduce',
    'upsample_bicubic2d_backward',
    'upsample_bilinear2d_backward',
    'upsample_linear1d_backward',
    'upsample_trilinear3d_backward',
}

#: The most operators that start a kernel, of any variant of a block at CIFAR's shape:
#: in a forward pass without gradients, and in a forward and backward pass.
LAUNCHES = {
    'A2Block': (25, 63),
    'ANLBlock': (26, 57),
    'ARMANLBlock': (93, 242),
    'CCBlock': (40, 82),
    'CGNLBlock': (23, 59),
    'CayleyNLBlock': (54, 127),
    'ChannelGate': (8, 25),
    'ChebyshevNLBlock': (65, 166),
    'DNLBlock': (43, 110),
    'NLBlock': (13, 29),
    'NSBlock': (39, 94),
    'RNLBlock': (13, 38),
    'SNLBlock': (52, 125),
}
CASES = [
    pytest.param(name, variant, ndim, id=f'{name}-{variant}-{ndim}d')
    for name, block in BLOCKS.items()
    for variant in block.variants
    for ndim in block.ndims
]
VARIANTS = [case for case in CASES if case.values[2] == 2]
LAST = [case for case in CASES if case.values[2] == BLOCKS[case.values[0]].ndims[-1]]


def maker(name, variant, ndim):
    return partial(BLOCKS[name], WIDTH, ndim=ndim, **BLOCKS[name].variants[variant])


@pytest.fixture
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def check(recording):
    assert recording.names
    assert not recording.elsewhere, 'made outside the device'
    assert not recording.masked, 'indexed by a mask, whose size the host asks for'
    assert not SYNCHRONISING & set(recording.names)


@pytest.mark.parametrize('name, variant, ndim', CASES)
def test_nothing_waits_and_nothing_is_elsewhere(name, variant, ndim):
    check(recorded.on_a_fake_gpu(maker(name, variant, ndim), SHAPES[ndim], False))


@pytest.mark.parametrize('name, variant, ndim', CASES)
def test_deterministic_mode_finds_no_operator_to_refuse(
    name, variant, ndim, deterministic
):
    recording = recorded.on_a_fake_gpu(maker(name, variant, ndim), SHAPES[ndim], True)
    check(recording)
    assert not NOT_DETERMINISTIC & set(recording.names)


@pytest.mark.parametrize('name, variant, ndim', LAST)
def test_autograd_itself_on_the_meta_device(name, variant, ndim):
    recording = recorded.on_meta(maker(name, variant, ndim), SHAPES[ndim])
    assert not recording.elsewhere
    assert not SYNCHRONISING & set(recording.names)


@pytest.mark.parametrize('name, variant, ndim', VARIANTS)
def test_autocast_multiplies_in_half_precision(name, variant, ndim):
    shape = (2, WIDTH, 64, 128)
    found = recorded.on_a_fake_gpu(maker(name, variant, ndim), shape, False, torch.half)
    check(found)
    products = found.products
    pairs = shape[0] * (shape[2] * shape[3]) * WIDTH
    if products.total() > 4 * pairs:  # else they are products with vectors
        assert products[torch.half] > 0.5 * products.total()


@pytest.mark.parametrize('name, variant, ndim', VARIANTS)
def test_number_of_launches(name, variant, ndim):
    assert name in LAUNCHES, f'count the operators of {name} and add them to LAUNCHES'

    def launches():
        runs = [
            recorded.on_a_fake_gpu(maker(name, variant, ndim), SHAPES[ndim], train)
            for train in (False, True)
        ]
        for run in runs:
            check(run)
        return [len(run.names) for run in runs]

    ours = launches()
    assert all(n <= limit for n, limit in zip(ours, LAUNCHES[name])), ours
    with graph.force('dense'):
        dense = launches()
    assert all(one <= 1.4 * other + 2 for one, other in zip(ours, dense)), (
        f'{ours} operators, and {dense} with the matrix'
    )


class Applied(torch.nn.Module):
    """An affinity of a few channels of the map, applied to all of them."""

    def __init__(self, case):
        super().__init__()
        self.case = case

    def forward(self, x):
        positions = x.flatten(2).mT
        query, key = positions[..., :8], positions[..., 8:16]
        out = self.case.build(query, key, tuple(x.shape[2:])) @ positions
        return out.mT.reshape(x.shape)


@pytest.mark.parametrize('dtype', [None, torch.half], ids=['float32', 'half'])
@pytest.mark.parametrize(
    'case, strategy',
    [
        pytest.param(case, strategy.name, id=f'{case.name}-{strategy.name}')
        for case in AFFINITIES
        for strategy in case.build(*torch.rand(2, 1, 12, 8), (3, 4)).strategies
    ],
)
def test_every_strategy(case, strategy, dtype, deterministic):
    shape = (2, WIDTH, 24, 40)
    for train in (False, True):
        try:
            with graph.force(strategy):
                found = recorded.on_a_fake_gpu(
                    partial(Applied, case), shape, train, dtype
                )
        except ValueError as error:
            pytest.skip(str(error))  # which case the strategy refuses, and why
        check(found)
        assert not NOT_DETERMINISTIC & set(found.names)


def test_the_recording_sees_what_it_looks_for(deterministic):
    class Faulty(torch.nn.Module):
        def forward(self, x):
            constant = torch.tensor(2.0, device='cpu')
            x = x * constant + torch.linalg.solve(torch.eye(16).to(x), x)
            return x + torch.nn.functional.adaptive_avg_pool2d(x, 16).cumsum(1)

    recording = recorded.on_a_fake_gpu(Faulty, SHAPES[2], True)
    assert recording.elsewhere
    assert '_linalg_check_errors' in recording.names
    found = NOT_DETERMINISTIC & set(recording.names)
    assert found == {'_adaptive_avg_pool2d_backward', 'cumsum'}
