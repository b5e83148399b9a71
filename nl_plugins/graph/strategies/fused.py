# Copyright (c) The nl_plugins authors. All rights reserved.
"""torch's fused attention, where it really is fused."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..lazy import Map, as_tensor, wants_rows
from ..machine import Machine
from ..plan import Case, Cost, Strategy
from ..precision import operand
from ..products import mix
from .costs import around, pick

# More samples times heads are an error of the launch.
MOST_SAMPLES = 65535


class Fused(Strategy):
    """``softmax(scale q kᵀ) v`` in ``scaled_dot_product_attention``.

    Its backward pass takes ``Σ grad out`` from every slope, which cancels only to
    rounding where one weight is near 1: relative errors of gradients that vanish are
    unbounded there. On a CPU tiles of our own are as fast, so training has them.
    """

    name = 'fused'
    traceable = True

    def refuses(self, case: Case) -> str | None:
        if case.captured:  # one operator, whatever the runtime makes of it
            return None
        width, depth = case.width, case.depth
        if case.device != 'cuda':
            if case.grad:
                return 'its backward pass loses digits where one weight is near 1'
            if width != depth:
                return 'on a CPU values of another width than the query need the matrix'
            return None
        step = {'float64': 0, 'half': 8}.get(case.precision, 4)
        if not step:
            return 'float64 falls back to the matrix'
        if width % step or depth % step:
            return f'the kernels take widths that are multiples of {step}'
        if case.batch > MOST_SAMPLES:
            return f'the kernels take up to {MOST_SAMPLES} samples'
        return None

    def cost(self, case: Case, machine: Machine) -> Cost:
        # A backward pass computes the weights again: five products for two.
        work = case.pairs * (case.width + case.depth) * pick(case, 1, 3.5)
        if case.device == 'cpu':  # of few keys the kernel's blocks are not filled
            work *= 1 + 100 / case.keys
        # Exponentials, of what is in cache.
        block = 2**16
        passes = 4 * case.pairs / block if case.device == 'cpu' else 0
        one = Cost(
            work / machine.attention,
            ((block, passes * pick(case, 3, 8)),),
            pick(case, 4, 8),
        )
        return one.times(case.times).and_(around(case))

    def run(self, affinity, values: Map, weight: Tensor | None, plus: Tensor | None):
        # Its copies of the maps are gone before the output has its memory.
        out = self._attended(affinity, as_tensor(values, rows=True))
        return mix(out, weight, plus, wants_rows(values))

    def _attended(self, affinity, values: Tensor) -> Tensor:
        query, key = (as_tensor(m, rows=True) for m in (affinity.query, affinity.key))
        rows = _rows(operand(query))
        keys = rows if key is query else _rows(operand(key))
        values = _rows(operand(values).to(rows.dtype))
        out = F.scaled_dot_product_attention(rows, keys, values, scale=affinity.scale)
        return out.squeeze(1)


def _rows(x: Tensor) -> Tensor:
    """(B, 1, N, C), of unit stride along channels: without it the fused kernels are
    silently refused."""
    return (x if x.stride(-1) == 1 else x.contiguous()).unsqueeze(1)


FUSED = Fused()
