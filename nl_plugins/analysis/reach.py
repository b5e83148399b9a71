# Copyright (c) The nl_plugins authors. All rights reserved.
"""The effective receptive field: which inputs an output depends on, and how much."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from .record import eager


@dataclass
class ReceptiveField:
    """Sensitivity of the centre of a feature map to every position of the input.

    Attributes:
        energy (Tensor): (H, W) or (T, H, W), shares that sum to 1, in float64.
        centre (tuple[int, ...]): Position of the input that lies under the output.
        samples (int): Inputs that were averaged.
    """

    energy: Tensor
    centre: tuple[int, ...]
    samples: int

    def radius(self, share: float = 0.5) -> float:
        """Smallest distance from the centre, in pixels of one frame, within which at
        least this share of the energy lies.

        Raises:
            ValueError: If ``share`` is not in (0, 1].
        """
        if not 0 < share <= 1:
            raise ValueError(f'share must be in (0, 1], but got {share}')
        energy = self.energy.sum(0) if self.energy.ndim == 3 else self.energy
        distances = self._distances(energy.shape).flatten()
        order = distances.argsort()
        held = energy.flatten()[order].cumsum(0)
        first = int(torch.searchsorted(held, held[-1] * share - 1e-12))
        return distances[order[first]].item()

    def _distances(self, size: Sequence[int]) -> Tensor:
        y, x = self.centre[-2:]
        rows = torch.arange(size[0], dtype=torch.double) - y
        columns = torch.arange(size[1], dtype=torch.double) - x
        return torch.hypot(rows.unsqueeze(1), columns.unsqueeze(0))


def effective_receptive_field(
    model: nn.Module,
    inputs: Iterable[Tensor],
    layer: str | None = None,
    seed: int = 0,
) -> ReceptiveField:
    """The gradient of one output position with respect to the input (Luo et al. 2016,
    https://arxiv.org/abs/1701.04128).

    With c the centre of the map y of ``layer``, and r random signs, the energy of input
    position p is ``Σ_channels (∂ Σ_k r_k y_k(c) / ∂ x(p))²``, scaled to sum 1 for each
    sample and averaged. In expectation over r it is the squared norm of the Jacobian
    ``∂ y(c) / ∂ x(p)``. The network runs in eval mode, and gets its mode back.

    Args:
        model (nn.Module): Called with each of the inputs; or, with ``layer``, a model
            whose ``backbone`` is, and the head with what that returns.
        inputs (Iterable[Tensor]): (B, C, H, W) or (B, C, T, H, W), as the network sees
            them after its preprocessor.
        layer (str, optional): Module whose output is looked at. Defaults to None, the
            output of the model.
        seed (int): Of the signs. Defaults to 0.

    Returns:
        ReceptiveField: Of the input's size.

    Raises:
        ValueError: If the layer does not exist or does not run, the inputs are empty or
            differ in size, or the output is no map or depends on no input.
    """
    module = model if layer is None else dict(model.named_modules()).get(layer)
    if module is None:
        raise ValueError(f'the model has no layer {layer!r}')
    modes = {each: each.training for each in model.modules()}
    outputs: list = []
    handle = module.register_forward_hook(lambda *call: outputs.append(call[2]))
    generator = torch.Generator().manual_seed(seed)
    total, count = None, 0
    try:
        model.eval()
        with torch.enable_grad(), eager():
            for x in inputs:
                x = x.detach().requires_grad_(True)
                _run(model, x)
                if not outputs:
                    raise ValueError(f'the layer {layer!r} did not run')
                energy = _energy(_map(outputs[-1]), x, generator)
                outputs.clear()
                if total is not None and energy.shape != total.shape:
                    raise ValueError(
                        f'inputs must have one size, but got {tuple(total.shape)} and '
                        f'{tuple(energy.shape)}'
                    )
                total = energy if total is None else total + energy
                count += len(x)
    finally:
        handle.remove()
        for each, training in modes.items():
            each.training = training
    if total is None:
        raise ValueError('there are no inputs')
    centre = tuple(size // 2 for size in total.shape)
    return ReceptiveField((total / count).cpu(), centre, count)


def _run(model: nn.Module, x: Tensor) -> None:
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        model(x)
        return
    head = getattr(model, 'decode_head', None)
    neck = getattr(model, 'neck', None)
    features = backbone(x)
    if neck is not None:
        features = neck(features)
    if head is not None:
        head(features)


def _map(output) -> Tensor:
    while isinstance(output, (tuple, list)):
        output = output[-1]
    if not isinstance(output, Tensor) or output.ndim < 4:
        raise ValueError(
            'the output of the layer is no map (B, C, H, W): choose another'
        )
    return output


def _energy(y: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
    batch, channels, *size = y.shape
    if batch != len(x):
        raise ValueError(
            f'the layer answers {batch} maps for {len(x)} inputs: give a layer that '
            'sees whole inputs'
        )
    centre = y[(..., *(length // 2 for length in size))]
    signs = torch.randint(2, (batch, channels), generator=generator) * 2 - 1
    (gradient,) = torch.autograd.grad((centre * signs.to(centre)).sum(), x)
    energy = gradient.detach().double().square().sum(1)
    share = energy.flatten(1).sum(1)
    if not (share > 0).all() or not math.isfinite(share.sum().item()):
        raise ValueError('the centre of the output depends on no input')
    return (energy / share.view(-1, *[1] * (energy.ndim - 1))).sum(0)
