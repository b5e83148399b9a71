# Copyright (c) The nl_plugins authors. All rights reserved.
"""SyncBN in several processes of a machine without CUDA."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from nl_plugins.compat import cpu_sync_bn

# Two processes, each with its share of one batch; the shares differ in size.
PROCESS = """
import sys
import torch
import torch.distributed as dist
from nl_plugins.compat import cpu_sync_bn

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group(
    'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
)
given = torch.load(f'{folder}/given.pt')
share = slice(0, 2) if rank == 0 else slice(2, 5)
x = given['x'][share].clone().requires_grad_()
layer = torch.nn.SyncBatchNorm(3, eps=0.1, momentum=given['momentum']).double()
layer.load_state_dict(given['state'])
refused = None
try:
    torch.nn.SyncBatchNorm(3).double()(x)
except ValueError as error:
    refused = str(error)
cpu_sync_bn.apply(None)
torch.nn.parallel.DistributedDataParallel(torch.nn.SyncBatchNorm(3))
for _ in range(2):
    out = layer(x)
out.backward(given['cotangent'][share])
state = {name: value.clone() for name, value in layer.state_dict().items()}
evaluated = layer.eval()(x).detach()
torch.save(
    dict(
        out=out.detach(),
        evaluated=evaluated,
        half=layer.train()(x.detach().bfloat16()).dtype,
        refused=refused,
        x=x.grad,
        weight=layer.weight.grad,
        bias=layer.bias.grad,
        state=state,
    ),
    f'{folder}/found{rank}.pt',
)
dist.destroy_process_group()
"""


@pytest.mark.parametrize('momentum', [0.1, None])
def test_two_processes_equal_one_with_the_whole_batch(tmp_path, root, momentum):
    torch.manual_seed(0)
    x = torch.randn(5, 3, 4, 2, dtype=torch.double) * 2 + 3
    cotangent = torch.randn_like(x)
    whole = nn.BatchNorm2d(3, eps=0.1, momentum=momentum).double()
    nn.init.normal_(whole.weight)
    nn.init.normal_(whole.bias)
    given = dict(x=x, cotangent=cotangent, state=whole.state_dict(), momentum=momentum)
    torch.save(given, tmp_path / 'given.pt')
    environment = dict(os.environ, PYTHONPATH=str(root), OMP_NUM_THREADS='1')
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', PROCESS, str(rank), str(tmp_path)], env=environment
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    found = [torch.load(tmp_path / f'found{rank}.pt') for rank in range(2)]

    x.requires_grad_()
    for _ in range(2):
        out = whole(x)
    out.backward(cotangent)
    for name in ('out', 'x'):
        together = torch.cat([one[name] for one in found])
        torch.testing.assert_close(together, out if name == 'out' else x.grad)
    # As in any distributed run, DDP sums the gradients of the parameters.
    for name in ('weight', 'bias'):
        total = found[0][name] + found[1][name]
        torch.testing.assert_close(total, getattr(whole, name).grad)
    for one in found:
        assert 'GPU' in one['refused']  # the defect itself
        assert one['half'] == torch.bfloat16
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(one['state'][name], value)
    evaluated = torch.cat([one['evaluated'] for one in found])
    torch.testing.assert_close(evaluated, whole.eval()(x))


def test_it_does_nothing_in_one_process(monkeypatch):
    monkeypatch.setattr(nn.SyncBatchNorm, 'forward', nn.SyncBatchNorm.forward)
    layer, x = nn.SyncBatchNorm(3), torch.randn(4, 3, 5)
    expected = layer(x)
    for _ in range(2):
        cpu_sync_bn.apply(None)
    layer.reset_running_stats()
    assert torch.equal(layer(x), expected)


def test_it_is_for_machines_without_cuda(monkeypatch):
    for found in (True, False):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda found=found: found)
        assert cpu_sync_bn.needed() is not found
