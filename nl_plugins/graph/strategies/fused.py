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
        wanted = wants_rows(values)
        # Without unit stride along channels the fused kernels are silently refused.
        query, key, values = (
            operand(as_tensor(map_, rows=True))
            for map_ in (affinity.query, affinity.key, values)
        )
        values = values.to(query.dtype)
        query, key, values = (
            (x if x.stride(-1) == 1 else x.contiguous()).unsqueeze(1)
            for x in (query, key, values)
        )
        out = F.scaled_dot_product_attention(query, key, values, scale=affinity.scale)
        out = out.squeeze(1)
        return mix(out, weight, plus, wanted)


FUSED = Fused()
