# Copyright (c) The nl_plugins authors. All rights reserved.
"""What else runs a network: compilers, exporters, checkpointing, several processes."""

import copy
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from nl_plugins.compat.repair import release

from .networks import SHORT, blocks_of, features, wake

captures = pytest.mark.skipif(
    release(torch.__version__) < (2, 2),
    reason='torch 2.1 captures neither partial functions nor signatures',
)


@pytest.fixture(scope='module', params=SHORT)
def case(request):
    """A short network whose blocks act, an input, and the output."""
    network = SHORT[request.param]
    torch.manual_seed(0)
    net = wake(network.build()).eval()
    x = network.input()
    with torch.no_grad():
        return net, x, features(net, x)


def _same(function, x, expected):
    with torch.no_grad():
        for a, b in zip(features(function, x), expected):
            # A graph may compute a block in another way: rounding of float32.
            atol = 3e-5 * b.abs().max().item()
            torch.testing.assert_close(a, b, rtol=1e-5, atol=atol)


@captures
def test_compile(case):
    net, x, expected = case
    torch._dynamo.reset()
    _same(torch.compile(net, backend='eager', fullgraph=True), x, expected)


@captures
def test_export(case):
    net, x, expected = case
    with torch.no_grad():
        program = torch.export.export(net, (x,))
    _same(program.module(), x, expected)
    assert any('block' in key or 'gate' in key for key in program.state_dict)


def test_jit_trace(case):
    net, x, expected = case
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # traced sizes become constants
        traced = torch.jit.trace(net, x)
    _same(traced, x, expected)


def _gradients(net, x):
    sum(out.square().mean() for out in features(net, x)).backward()
    return {
        f'{name}.{key}': parameter.grad
        for name, block in blocks_of(net).items()
        for key, parameter in block.named_parameters()
    }


@pytest.mark.parametrize(
    'name', [name for name in SHORT if name != 'mmpretrain-convnext']
)
def test_activation_checkpointing_changes_nothing(name):
    network = SHORT[name]
    nets = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        options = dict(with_cp=with_cp)
        if 'swin' in name:
            options['drop_path_rate'] = 0.0
        if name in ('mmaction-tsm', 'mmaction-c2d'):
            options['depth'] = 50  # their basic blocks cannot be checkpointed
        nets.append(wake(network.build(**options)).train())
    found = []
    for net in nets:
        x = network.input().requires_grad_()
        found.append((_gradients(net, x), x.grad))
    (plain, plain_x), (checkpointed, checkpointed_x) = found
    torch.testing.assert_close(plain_x, checkpointed_x)
    assert plain.keys() == checkpointed.keys()
    for key in plain:
        torch.testing.assert_close(plain[key], checkpointed[key])


def test_activation_checkpointing_of_convnext():
    network = SHORT['mmpretrain-convnext']
    options = dict(drop_path_rate=0.0)
    nets = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        nets.append(wake(network.build(with_cp=with_cp, **options)).train())
    a, b = (_gradients(net, network.input().requires_grad_()) for net in nets)
    for key in a:
        torch.testing.assert_close(a[key], b[key])


def _worker(rank, path, names, out):
    import nl_plugins  # noqa: F401

    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{path}', rank=rank, world_size=2
    )
    found = {}
    for name in names:
        network = SHORT[name]
        torch.manual_seed(rank)  # DDP makes the replicas equal
        net = DistributedDataParallel(wake(network.build()).eval())
        x = network.input() + rank
        found[name] = _gradients_of_ddp(net, x)
    torch.save(found, f'{out}.{rank}')
    dist.destroy_process_group()


def _gradients_of_ddp(net, x):
    sum(out.square().mean() for out in features(net, x)).backward()
    return {
        key: parameter.grad
        for key, parameter in net.module.named_parameters()
        if key.startswith(tuple(blocks_of(net.module)))
    }


# One as in the processes: another order of summing decides a ReLU at 0 otherwise.
@pytest.mark.parametrize('threads', [1], indirect=True)
def test_two_processes_average_the_gradients_of_the_blocks(tmp_path, threads):
    for scope in ('mmpretrain', 'mmseg', 'mmaction'):
        pytest.importorskip(scope)
    names, out = list(SHORT), str(tmp_path / 'gradients')
    mp.spawn(_worker, (str(tmp_path / 'store'), names, out), nprocs=2)
    ranks = [torch.load(f'{out}.{rank}') for rank in range(2)]
    for name in names:
        network = SHORT[name]
        torch.manual_seed(0)
        net = wake(network.build()).eval()
        alone = []
        for rank in range(2):
            alone.append(_gradients(copy.deepcopy(net), network.input() + rank))
        assert ranks[0][name].keys() == alone[0].keys() == ranks[1][name].keys()
        for key in alone[0]:
            mean = (alone[0][key] + alone[1][key]) / 2
            assert torch.equal(ranks[0][name][key], ranks[1][name][key])
            torch.testing.assert_close(ranks[0][name][key], mean, rtol=1e-4, atol=1e-5)
