# Copyright (c) The nl_plugins authors. All rights reserved.
"""Softmax affinities, computed by fused attention or in tiles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .affinity import Affinity, channel_first_matmul, check_pair, scaled_product
from .dispatch import at_least_float32, nominal
from .tiles import SQUARE, SquareSoftmax, TiledReLU, TiledSoftmax

# Up to so many weights, those of all samples, no kernel is faster than the matrix.
SMALL_MATRIX = 400_000
SMALL_MATRIX_OF_ONE = 10_000


class SoftmaxAffinity(Affinity):
    """``A_ij = softmax_j(scale q_i·k_j)`` (Wang et al. 2018, eq. 3).

    Args:
        query (Tensor): (B, N, C).
        key (Tensor): (B, M, C).
        scale (float): Factor of the logits. Defaults to 1.
    """

    takes_half = True

    def __init__(self, query: Tensor, key: Tensor, scale: float = 1.0) -> None:
        check_pair('SoftmaxAffinity', query, key)
        self._describe(query, query.shape[1], key.shape[1])
        self.query, self.key, self.scale = query, key, scale

    def _dense(self) -> Tensor:
        if self.query is self.key and self_product_pays(self.query):
            logits = SelfProduct.apply(at_least_float32(self.query))
            return (logits if self.scale == 1 else logits * self.scale).softmax(-1)
        return self._weights(self.query)

    def _rows(self, index: Tensor) -> Tensor:
        return self._weights(self.query[:, index])

    def _weights(self, query: Tensor) -> Tensor:
        query, key = at_least_float32(query), at_least_float32(self.key)
        return scaled_product(query, key, self.scale).softmax(-1)

    def _dense_is_cheaper(self, depth: int) -> bool:
        same, forward = self.query is self.key, not torch.is_grad_enabled()
        # The fused kernel shares one sample between the threads.
        fused = forward and not same and nominal(self.shape[0]) == 1
        small = SMALL_MATRIX_OF_ONE if fused else SMALL_MATRIX
        if matrix_pays(self.shape, self.query.shape[2], self.device, small):
            return True
        one_tile = same and forward and self.shape[1] <= SQUARE
        return one_tile and square_pays(self.device)

    def _apply(self, values: Tensor) -> Tensor:
        width, depth = self.query.shape[2], values.shape[2]
        fused = exporting() or fused_kernel_takes(width, depth, self.device)
        if self.query is self.key and (not fused or square_pays(self.device)):
            features, values = at_least_float32(self.query), at_least_float32(values)
            return SquareSoftmax.apply(features, values, self.scale)[0]
        if fused:
            return self._fused(values)
        query, key = at_least_float32(self.query), at_least_float32(self.key)
        values = at_least_float32(values)
        return TiledSoftmax.apply(query, key, values, self.scale)[0]

    def _fused(self, values: Tensor) -> Tensor:
        # Without unit stride along channels the fused kernels are silently refused.
        query, key, values = (
            (tensor if tensor.stride(-1) == 1 else tensor.contiguous()).unsqueeze(1)
            for tensor in (self.query, self.key, values)
        )
        out = F.scaled_dot_product_attention(query, key, values, scale=self.scale)
        return out.squeeze(1)


class SelfProduct(torch.autograd.Function):
    """``x xᵀ`` (B, N, N) of x (B, N, C).

    The gradient is ``(G + Gᵀ) x``: one product, where one of two tensors takes two.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x @ x.mT

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return channel_first_matmul(grad + grad.mT, x)


def self_product_pays(x: Tensor) -> bool:
    """Whether the product that SelfProduct saves costs more than calling it."""
    # The call takes as long as two million multiplications.
    batch, positions, width = x.shape
    products = nominal(batch) * positions**2 * width
    return torch.is_grad_enabled() and products >= 2**21


def matrix_pays(
    shape: tuple[int, int, int],
    width: int,
    device: torch.device,
    small: int = SMALL_MATRIX,
) -> bool:
    """Whether building all the weights beats recomputing them in the backward pass.

    Few keys and wide channels: the matrix fits the cache and dense products run at
    full speed; so it does up to ``small`` weights. The bounds keep memory linear in N.
    Measurements behind the CPU rule: docs/en/benchmarks.md; the CUDA rule follows from
    launch counts alone.
    """
    batch, queries, keys = shape
    if device.type == 'cuda':
        return keys <= 256
    few = nominal(batch) * queries * keys <= small
    return keys <= 2047 and (few or keys <= 4 * width)


def fused_kernel_takes(width: int, depth: int, device: torch.device) -> bool:
    """Whether torch's fused attention runs at these widths without the N x M matrix.

    The CPU kernel wants one width for query, key and values; the memory-efficient
    CUDA kernel takes any two widths that are multiples of 8.
    """
    if device.type == 'cuda':
        return width % 8 == 0 and depth % 8 == 0
    return width == depth


def square_pays(device: torch.device) -> bool:
    """Whether symmetric logits go to tiles of our own even where a fused kernel runs.

    On a CPU they save a quarter of the products, and keep the digits that the fused
    backward pass loses to its logarithm where a position attends to itself.
    """
    return device.type == 'cpu'


def exporting() -> bool:
    """Whether a graph is being captured for another runtime."""
    return getattr(torch.compiler, 'is_exporting', lambda: False)()


class ReLUAffinity(Affinity):
    """``A_ij = scale relu(q_i·k_j)`` (the relu form of RNL).

    Args:
        query (Tensor): (B, N, C).
        key (Tensor): (B, M, C).
        scale (float, optional): Factor; None means 1 / M. Defaults to None.
    """

    def __init__(self, query: Tensor, key: Tensor, scale: float | None = None) -> None:
        check_pair('ReLUAffinity', query, key)
        self._describe(query, query.shape[1], key.shape[1])
        self.query, self.key = query, key
        self.scale = 1 / key.shape[1] if scale is None else scale

    def _dense(self) -> Tensor:
        query, key = at_least_float32(self.query), at_least_float32(self.key)
        return torch.relu(query @ key.mT) * self.scale

    def _rows(self, index: Tensor) -> Tensor:
        return ReLUAffinity(self.query[:, index], self.key, self.scale)._dense()

    def _dense_is_cheaper(self, depth: int) -> bool:
        return matrix_pays(self.shape, self.query.shape[2], self.device)

    def _apply(self, values: Tensor) -> Tensor:
        query, key = at_least_float32(self.query), at_least_float32(self.key)
        return TiledReLU.apply(query, key, values, self.scale)

    def transpose(self) -> ReLUAffinity:
        return ReLUAffinity(self.key, self.query, self.scale)
