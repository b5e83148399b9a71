# Copyright (c) The nl_plugins authors. All rights reserved.
"""torch's SyncBatchNorm refuses CPU tensors in several processes.

Most configs of mmseg have it. In one process mmengine replaces it by plain batch norm;
in several processes of a machine without CUDA the first training step fails. Here the
statistics of a CPU batch are summed over the processes, forward and backward, as the
CUDA layer does.
"""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .imports import is_installed
from .repair import Repair, replace


class _SumOverProcesses(torch.autograd.Function):
    """The sum over the processes; every process's loss depends on it."""

    @staticmethod
    def forward(ctx, tensor, group):
        ctx.group = group
        total = tensor.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, grad):
        total = grad.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def _synchronised(layer, x, group):
    """Batch norm of the concatenated batches; updates the running statistics."""
    layer._check_input_dim(x)
    layer._check_non_zero_input_channels(x)
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1] + [1] * (x.ndim - 2)
    values = x.float() if x.dtype in (torch.half, torch.bfloat16) else x
    number = values.new_full((1,), values.numel() / values.shape[1])
    sums = _SumOverProcesses.apply(torch.cat([values.sum(dims), number]), group)
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = values - mean.view(shape)
    squares = _SumOverProcesses.apply(centred.square().sum(dims), group)
    variance = squares / count
    if layer.track_running_stats:
        with torch.no_grad():
            layer.num_batches_tracked += 1
            momentum = layer.momentum
            if momentum is None:  # the average of all batches
                momentum = 1 / layer.num_batches_tracked.item()
            unbiased = squares / (count - 1).clamp_min(1)
            layer.running_mean.lerp_(mean.to(layer.running_mean), momentum)
            layer.running_var.lerp_(unbiased.to(layer.running_var), momentum)
    out = centred * (variance + layer.eps).rsqrt().view(shape)
    if layer.affine:
        out = out * layer.weight.view(shape) + layer.bias.view(shape)
    return out.to(x.dtype)


def _on_cpu(original):
    def forward(self, x):
        if (
            x.device.type != 'cpu'
            or not self.training
            or not (dist.is_available() and dist.is_initialized())
        ):
            return original(self, x)
        return _synchronised(self, x, self.process_group or dist.group.WORLD)

    return forward


def _for_gpus(original):
    """DDP's refusal of the layer on a CPU."""

    def check(self, module):
        if self.device_type != 'cpu':
            original(self, module)

    return check


def needed() -> bool:
    return is_installed('mmengine') and not torch.cuda.is_available()


def apply(module) -> None:
    replace(torch.nn.SyncBatchNorm, 'forward', _on_cpu)
    replace(DistributedDataParallel, '_passing_sync_batchnorm_handle', _for_gpus)


REPAIR = Repair(
    name='cpu_sync_bn',
    symptom='SyncBN refuses CPU tensors in several processes',
    remedy='on a CPU it sums its statistics over the processes itself',
    upstream='torch/nn/modules/batchnorm.py',
    needed=needed,
    apply=apply,
    modules=('mmengine.model.wrappers.distributed',),
)
