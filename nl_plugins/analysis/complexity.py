# Copyright (c) The nl_plugins authors. All rights reserved.
"""Multiply-adds, parameters and affinity memory of a model, block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ..blocks import NonLocalBlock
from ..graph import Affinity, SumAffinity
from ..graph.affinity import MatrixAffinity
from ..graph.lazy import Map
from ..graph.plan import MATRIX, Decision, decisions


def _attention_flops(
    query: Sequence[int],
    key: Sequence[int],
    values: Sequence[int],
    *args: Any,
    out_shape: Any = None,
    **kwargs: Any,
) -> int:
    """Of softmax(q kᵀ) v from the shapes (B, heads, positions, width)."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + values[3])


def _product_flops(
    total: Sequence[int],
    left: Sequence[int],
    right: Sequence[int],
    *args: Any,
    out_shape: Any = None,
    **kwargs: Any,
) -> int:
    """Of (B, n, k) times (B, k, m) added to ``total``."""
    return 2 * left[0] * left[1] * left[2] * right[2]


#: For ``FlopCounterMode(custom_mapping=...)``: operators of ours that torch's counter
#: does not know, the product in place that forward passes without gradients use and
#: the fused attention of CPUs (which torch 2.1 calls as that of GPUs, and knows).
OPERATORS = {torch.ops.aten.baddbmm_: _product_flops}
if hasattr(torch.ops.aten, '_scaled_dot_product_flash_attention_for_cpu'):
    OPERATORS[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu] = (
        _attention_flops
    )


class _NoTracker:
    """In place of the counter's tracker of modules, which listens to all of them: no
    layer's weight is read then, and what is counted is not what runs."""

    parents = ('Global',)

    def __enter__(self) -> None: ...

    def __exit__(self, *args: Any) -> None: ...


def flop_counter() -> FlopCounterMode:
    """torch's counter of floating point operations, which changes nothing."""
    counter = FlopCounterMode(display=False, custom_mapping=OPERATORS)
    if hasattr(counter, 'mod_tracker'):
        counter.mod_tracker = _NoTracker()
    return counter


@dataclass
class BlockComplexity:
    """What one non-local block costs for one input.

    Attributes:
        name (str): Of the module in the model.
        kind (str): Name of its class.
        positions (tuple[int]): Sizes S of its input (B, C, *S).
        queries (int): N, rows of its affinity; 0 where no affinity was seen.
        keys (int): M, columns.
        macs (int): Multiply-adds of one forward pass.
        matrix (int): Bytes of the affinity as a matrix (B, N, M).
        held (int): Bytes of what stands for it: the tensors that the operator is
            made of, or the matrix where the sizes make it the cheaper form.
        decisions (list[Decision]): How its affinities were computed, and why.
    """

    name: str
    kind: str
    positions: tuple[int, ...]
    queries: int = 0
    keys: int = 0
    macs: int = 0
    matrix: int = 0
    held: int = 0
    decisions: list[Decision] = field(default_factory=list)


@dataclass
class Complexity:
    """What a model costs for one input.

    Attributes:
        macs (int): Multiply-adds of one forward pass.
        parameters (int): Elements of all parameters.
        blocks (list[BlockComplexity]): In the order in which they ran.
    """

    macs: int
    parameters: int
    blocks: list[BlockComplexity] = field(default_factory=list)


class _WeightsOnMeta(TorchFunctionMode):
    """Weights come from ``torch.empty``; what is computed with values does not."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get('device') is None:
            kwargs['device'] = 'meta'
        return func(*args, **kwargs)


def weights_on_meta() -> TorchFunctionMode:
    """A context in which modules are built without memory for their weights.

    ``torch.device('meta')`` as a context breaks backbones that compute a schedule of
    drop rates with tensors; this one leaves them alone.
    """
    return _WeightsOnMeta()


def model_complexity(model: nn.Module, *args: Any, **kwargs: Any) -> Complexity:
    """Count one forward pass ``model(*args, **kwargs)`` in evaluation mode.

    Counted are the multiply-adds of convolutions, linear layers, matrix products and
    attention, fused or not, in the formulation that runs: an operator is counted by
    what it multiplies, not by the matrix that it stands for. Norms, activations,
    pools, sums, sorting and small linear systems are not counted, as in OpenMMLab's
    tables.

    On the meta device nothing is computed and no memory is needed; sizes then choose
    the formulation as on a CPU. Softmax attention counts in full there, while the
    forward pass of a CPU skips a quarter of it where query and key are one tensor.

    Args:
        model (nn.Module): On any device, the meta device included.
        args: Positional arguments of the forward pass, on the same device.
        kwargs: Its keyword arguments.

    Returns:
        Complexity: For the whole batch. Its blocks are ours and mmcv's own; those of
        mmcv have no affinity unless ``nl_plugins.accelerate`` computes them.
    """
    from mmcv.cnn.bricks.non_local import _NonLocalNd

    counting = _Counting()
    handles = [
        handle
        for name, module in model.named_modules()
        if isinstance(module, (NonLocalBlock, _NonLocalNd))
        for handle in (
            module.register_forward_pre_hook(partial(counting.enter, name)),
            module.register_forward_hook(counting.leave),
        )
    ]
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with decisions() as counting.decided, torch.no_grad(), counting.flops:
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return Complexity(
        counting.flops.get_total_flops() // 2,
        sum(parameter.numel() for parameter in model.parameters()),
        [counting.row(run) for run in counting.runs],
    )


@dataclass
class _Run:
    """One forward pass of one block, while it is counted."""

    name: str
    block: nn.Module
    x: Tensor
    flops: int
    start: int
    stop: int = 0


class _Counting:
    """The hooks and what they saw."""

    def __init__(self) -> None:
        self.flops = flop_counter()
        self.runs: list[_Run] = []
        self.open: list[_Run] = []
        self.decided: list[tuple[Affinity, Decision]] = []

    def enter(self, name: str, block: nn.Module, args: tuple) -> None:
        flops = self.flops.get_total_flops()
        run = _Run(name, block, args[0], flops, len(self.decided))
        self.runs.append(run)
        self.open.append(run)

    def leave(self, block: nn.Module, args: tuple, output: Any) -> None:
        run = self.open.pop()
        run.flops = self.flops.get_total_flops() - run.flops
        run.stop = len(self.decided)

    def row(self, run: _Run) -> BlockComplexity:
        decided = self.decided[run.start : run.stop]
        applied = {
            id(affinity): (affinity, decision.taken == MATRIX)
            for affinity, decision in decided
            # Of a sum its terms, of a matrix built once the affinity that it is of.
            if not isinstance(affinity, (MatrixAffinity, SumAffinity))
        }
        queries, keys = 0, 0
        matrix = held = 0
        for affinity, dense in applied.values():
            batch, queries, keys = affinity.shape
            size = batch * queries * keys * affinity.dtype.itemsize
            matrix += size
            held += size if dense else _bytes(affinity)
        return BlockComplexity(
            run.name,
            type(run.block).__name__,
            tuple(run.x.shape[2:]),
            queries,
            keys,
            run.flops // 2,
            matrix,
            held,
            list(dict.fromkeys(decision for _, decision in decided)),
        )


def _bytes(affinity: Affinity) -> int:
    """Of the tensors that an affinity was made from."""
    maps = {
        id(value): math.prod(value.shape) * value.dtype.itemsize
        for name, value in vars(affinity).items()
        if isinstance(value, Map) and not name.startswith('_')
    }
    return sum(maps.values())
