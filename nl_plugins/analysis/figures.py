# Copyright (c) The nl_plugins authors. All rights reserved.
"""Pictures of measurements, as RGB arrays (H, W, 3) of uint8."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .dependence import QueryDependence
from .reach import ReceptiveField
from .spectrum import FilterShape, Spectrum


def draw_dependence(found: dict[str, QueryDependence]) -> np.ndarray:
    """Mass of the keys by their distance from the query, over that of even weights.

    Args:
        found (dict): From :func:`query_dependence`. Blocks with pooled keys are named
            in the legend alone.
    """
    figure, canvas = _figure(6, 3.5)
    axes = figure.subplots()
    for name, one in found.items():
        label = f'{name}, total variation {one.total_variation.mean:.2f}'
        if one.distance is None:
            axes.plot([], [], label=f'{label} (pooled keys)')
            continue
        chance = torch.tensor(one.distance_chance)
        ratio = torch.tensor(one.distance) / chance.clamp_min(1e-12)
        middles = (torch.arange(len(ratio)) + 0.5) / len(ratio)
        seen = chance > 0
        axes.plot(middles[seen].numpy(), ratio[seen].numpy(), marker='.', label=label)
    axes.axhline(1, color='0.6', linewidth=0.8)
    axes.set_xlabel('distance from the query, share of the diagonal')
    axes.set_ylabel('mass / mass of even weights')
    axes.set_ylim(bottom=0)
    axes.legend(fontsize='small')
    return _pixels(canvas)


def draw_receptive_fields(fields: dict[str, ReceptiveField]) -> np.ndarray:
    """The logarithm of the energy, side by side on one scale, over five decades.

    The circle holds half of it. Of clips, the sum over frames.
    """
    figure, canvas = _figure(3.2 * len(fields), 3.0)
    panels = np.atleast_1d(figure.subplots(1, len(fields)))
    maps = {
        name: field.energy.sum(0) if field.energy.ndim == 3 else field.energy
        for name, field in fields.items()
    }
    top = max(energy.max().item() for energy in maps.values())
    for axes, (name, field) in zip(panels, fields.items()):
        logs = maps[name].clamp_min(top * 1e-5).log10().numpy()
        axes.imshow(logs, vmin=np.log10(top) - 5, vmax=np.log10(top), cmap='magma')
        radius = field.radius()
        y, x = field.centre[-2:]
        angle = np.linspace(0, 2 * np.pi, 200)
        axes.plot(x + radius * np.cos(angle), y + radius * np.sin(angle), 'w--', lw=1)
        axes.set_xlim(-0.5, logs.shape[1] - 0.5)
        axes.set_ylim(logs.shape[0] - 0.5, -0.5)
        axes.set_title(f'{name}: radius {radius:.0f} px', fontsize='small')
        axes.set_xticks([])
        axes.set_yticks([])
    return _pixels(canvas)


def draw_filters(
    found: dict[str, dict[str, tuple[Spectrum, Tensor, Tensor, FilterShape]]],
) -> np.ndarray:
    """Gain of the channels over the spectrum, median and tenths, a panel a block.

    Args:
        found (dict): By block and by state ('before', 'after'): the spectrum, its
            eigenvalues (L, ), the gains (L, C) there and the shape of the filter.
    """
    figure, canvas = _figure(3.6 * len(found), 3.0)
    panels = np.atleast_1d(figure.subplots(1, len(found)))
    colours = dict(before='0.5', after='tab:red')
    for axes, (name, states) in zip(panels, found.items()):
        spectrum = next(reversed(states.values()))[0]
        limits = spectrum.values.min().item(), spectrum.values.max().item()
        shares, edges = spectrum.histogram(limits=limits)
        back = axes.twinx()
        back.stairs(shares.clamp_min(0), edges, fill=True, color='tab:blue', alpha=0.3)
        back.set_yscale('log')
        back.set_ylabel('share of eigenvalues', color='tab:blue', fontsize='small')
        axes.set_zorder(back.get_zorder() + 1)
        axes.patch.set_visible(False)
        for state, (_, eigenvalues, gains, _) in states.items():
            low, middle, high = (gains.quantile(q, 1) for q in (0.1, 0.5, 0.9))
            colour = colours.get(state)
            axes.plot(eigenvalues, middle, color=colour, label=f'{state} training')
            axes.fill_between(eigenvalues, low, high, color=colour, alpha=0.2)
        axes.set_ylim(bottom=0)
        axes.set_title(name, fontsize='small')
        axes.set_xlabel('eigenvalue of the affinity')
        axes.set_ylabel('gain of a channel')
        axes.legend(fontsize='small')
    return _pixels(canvas)


def _figure(width: float, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout='constrained')
    return figure, FigureCanvasAgg(figure)


def _pixels(canvas) -> np.ndarray:
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
