# Copyright (c) The nl_plugins authors. All rights reserved.
"""The spectral view of a block: eigenvalues of its graph, response of its filter."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from ..blocks import NonLocalBlock
from ..blocks.base import matrix
from ..blocks.dnl import DNLBlock
from ..graph import Affinity
from ..graph.dot import LowRankAffinity


@dataclass
class Spectrum:
    """Eigenvalues of an affinity, with how much of all N each stands for.

    Attributes:
        values (Tensor): Real parts of the eigenvalues, or the nodes of a quadrature.
        weights (Tensor): Their shares; they sum to 1. Those of a quadrature may be
            below 0 where the affinity is not symmetric.
        exact (bool): Whether ``values`` are all eigenvalues that are not 0.
    """

    values: Tensor
    weights: Tensor
    exact: bool

    def histogram(
        self, bins: int = 40, limits: tuple[float, float] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Shares per bin, (bins, ), and the edges, (bins + 1, )."""
        if limits is None:
            low, high = self.values.min().item(), self.values.max().item()
            limits = (min(low, -1.0), max(high, 1.0))
        edges = torch.linspace(*limits, bins + 1, dtype=torch.double)
        index = torch.bucketize(self.values.double().clamp(*limits), edges[1:-1])
        shares = torch.zeros(bins, dtype=torch.double)
        return shares.index_add(0, index, self.weights.double()), edges


@torch.no_grad()
def graph_spectrum(
    affinity: Affinity,
    sample: int = 0,
    dense_limit: int = 1024,
    num_steps: int = 64,
    num_probes: int = 4,
) -> Spectrum:
    """Spectrum of A, without ever building A where N is large.

    * A = L R^T of rank r: the eigenvalues of R^T L (r x r), exact; the others are 0.
    * Up to ``dense_limit`` positions: all eigenvalues, exact.
    * Else: quadrature of the density ``tr f(A) / N`` by Arnoldi's iteration from
      random +-1 probes (for a symmetric A, stochastic Lanczos quadrature; Ubaru et
      al. 2017). It is exact for polynomials f of degree below ``num_steps`` up to the
      spread of the probes.

    Args:
        affinity (Affinity): (B, N, N).
        sample (int): Index in the batch. Defaults to 0.
        dense_limit (int): Largest N whose matrix is built. Defaults to 1024.
        num_steps (int): Applications of A a probe. Defaults to 64.
        num_probes (int): Probes. Defaults to 4.

    Returns:
        Spectrum: On the CPU, in float64.

    Raises:
        ValueError: If keys are pooled: a rectangular A has no eigenvalues.
    """
    _, queries, keys = affinity.shape
    if queries != keys:
        raise ValueError(
            f'{affinity!r} has pooled keys, so it has no eigenvalues: choose a block '
            'without sub_sample'
        )
    if isinstance(affinity, LowRankAffinity):
        left = affinity.left
        if left.shape[2] < queries:
            small = affinity.context(left)[sample].double().cpu()
            values = torch.linalg.eigvals(small).real
            weights = torch.full_like(values, 1 / queries)
            values = torch.cat([values, values.new_zeros(1)])
            rest = weights.new_tensor([1 - len(weights) / queries])
            return Spectrum(values, torch.cat([weights, rest]), True)
    if queries <= dense_limit:
        values = torch.linalg.eigvals(affinity.dense()[sample].double().cpu()).real
        return Spectrum(values, torch.full_like(values, 1 / queries), True)
    found = [
        _quadrature(affinity, sample, min(num_steps, queries), seed)
        for seed in range(num_probes)
    ]
    values, weights = (torch.cat(parts) for parts in zip(*found))
    return Spectrum(values, weights / num_probes, False)


@torch.no_grad()
def filter_response(block: NonLocalBlock, eigenvalues: Tensor) -> Tensor:
    """Gain ``||H(lambda)||_F`` of a block's filter at eigenvalues of its affinity.

    That of :func:`channel_response` over all channels of the output.

    Args:
        block (NonLocalBlock): Any block.
        eigenvalues (Tensor): (L, ).

    Returns:
        Tensor: (L, ).
    """
    return channel_response(block, eigenvalues).norm(dim=1)


@torch.no_grad()
def channel_response(block: NonLocalBlock, eigenvalues: Tensor) -> Tensor:
    """Gain ``p_c(lambda) = ||H_c(lambda)||`` of each channel c of a block's output.

    The filter (with the output convolution, before norm and residual) maps the
    component of g along an eigenvector of eigenvalue lambda through the matrix
    H(lambda), such as ``W_0 + lambda W_1``, of which H_c is row c. It is found by
    running the filter on a diagonal affinity, so that no graph is needed and its size
    does not matter. A nonlinear ARMA filter is taken without its activation. Of several
    units the first counts.

    Args:
        block (NonLocalBlock): Any block.
        eigenvalues (Tensor): (L, ).

    Returns:
        Tensor: (L, C), or (L, 1) of a block without an output convolution, which
        treats all channels alike.
    """
    eigenvalues = eigenvalues.to(next(block.parameters()))
    if not hasattr(block, 'filter') or isinstance(block, DNLBlock):  # A g alone
        unit = block.each_unit()[0] if hasattr(block, 'each_unit') else block
        output = getattr(unit, 'conv_out', None)
        magnitudes = eigenvalues.abs().unsqueeze(1)
        return (
            magnitudes if output is None else magnitudes * _weight(output).norm(dim=1)
        )
    if getattr(block, 'nonlinear', False):
        block = copy.copy(block)
        block.nonlinear = False
    length, width = len(eigenvalues), block.width
    # Sample d of the batch holds the d-th unit vector at every node.
    values = torch.eye(width).to(eigenvalues).unsqueeze(1).expand(-1, length, -1)
    graph = _Diagonal(eigenvalues, width)
    unit = block.each_unit()[0]
    response = block.filter(graph, values, unit, _weight(unit.conv_out))
    return response.norm(dim=0)  # (D, L, C) -> (L, C)


@dataclass
class FilterShape:
    """What a block's filter does over the spectrum of its graph.

    Attributes:
        tilt (Tensor): (C, ), ``(p(top) - p̄) / (p(top) + p̄)`` in [-1, 1], with p(top)
            the gain at the largest eigenvalue, the smoothest component, and p̄ the mean
            gain over the spectrum.
        smooth (float): Share of the channels that smooth, tilt above ``margin``.
        sharpen (float): That sharpen, tilt below ``-margin``.
        passing (float): The others, that pass all components alike.
    """

    tilt: Tensor
    smooth: float
    sharpen: float
    passing: float


def filter_shape(
    block: NonLocalBlock, spectrum: Spectrum, margin: float = 0.05
) -> FilterShape:
    """Whether the channels of a filter smooth, sharpen or pass, on a measured spectrum.

    Args:
        block (NonLocalBlock): Any block.
        spectrum (Spectrum): From :func:`graph_spectrum`.
        margin (float): Of the tilt. Defaults to 0.05.

    Returns:
        FilterShape: On the CPU, in float64.
    """
    response = channel_response(block, spectrum.values).double().cpu()
    # A quadrature may have nodes of weight below 0.
    weights = spectrum.weights.double().clamp_min(0)
    mean = weights @ response / weights.sum()
    top = response[spectrum.values.argmax()]
    tilt = (top - mean) / (top + mean).clamp_min(torch.finfo(torch.double).tiny)
    smooth = (tilt > margin).double().mean().item()
    sharpen = (tilt < -margin).double().mean().item()
    return FilterShape(tilt, smooth, sharpen, 1 - smooth - sharpen)


def _weight(layer: nn.Module) -> Tensor:
    """The matrix (D, C) of a linear 1x1 layer; one that has to be called answers
    unit vectors."""
    weight = matrix(layer)
    if weight is not None:
        return weight
    conv = getattr(layer, 'conv', layer)
    units = torch.eye(conv.in_channels).to(conv.weight)
    answers = conv(units.view(*units.shape, *[1] * (conv.weight.ndim - 2))).flatten(1)
    return (answers if conv.bias is None else answers - conv.bias).mT


class _Diagonal(Affinity):
    """``A = diag(eigenvalues)``, the graph in its own eigenvectors."""

    def __init__(self, eigenvalues: Tensor, batch: int) -> None:
        size = len(eigenvalues)
        self._describe(eigenvalues.expand(batch, -1), size, size)
        self.eigenvalues = eigenvalues

    def _dense(self) -> Tensor:
        return self.eigenvalues.diag().expand(self.shape)

    def _apply(self, values: Tensor) -> Tensor:
        return self.eigenvalues.to(values.dtype).unsqueeze(1) * values


def _quadrature(
    affinity: Affinity, sample: int, num_steps: int, seed: int
) -> tuple[Tensor, Tensor]:
    batch, size, _ = affinity.shape
    generator = torch.Generator().manual_seed(seed)
    probe = torch.randint(2, (size,), generator=generator).double() * 2 - 1
    basis = [probe / probe.norm()]
    hessenberg = torch.zeros(num_steps + 1, num_steps, dtype=torch.double)
    for step in range(num_steps):
        # Only one sample counts; the operator applies to the batch.
        values = basis[-1].to(affinity.device, affinity.dtype).view(1, size, 1)
        image = affinity.apply(values.expand(batch, -1, -1).contiguous())
        image = image[sample, :, 0].double().cpu()
        known = torch.stack(basis)
        for _ in range(2):  # twice is enough (Kahan and Parlett)
            overlap = known @ image
            hessenberg[: step + 1, step] += overlap
            image = image - known.mT @ overlap
        norm = image.norm()
        hessenberg[step + 1, step] = norm
        if norm < 1e-6 * hessenberg[:, step].abs().max().clamp_min(1e-12):
            num_steps = step + 1
            break
        basis.append(image / norm)
    values, vectors = torch.linalg.eig(hessenberg[:num_steps, :num_steps])
    first = torch.zeros(num_steps, dtype=vectors.dtype)
    first[0] = 1
    return values.real, (vectors[0] * torch.linalg.solve(vectors, first)).real
