# Copyright (c) The nl_plugins authors. All rights reserved.
"""Pictures of attention and of spectra, as RGB arrays (H, W, 3) of uint8."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from .record import AttentionRecord, query_map
from .spectrum import Spectrum

_MAX_STRIP = 8  # frames of a film strip


def draw_attention(
    record: AttentionRecord,
    frames: Sequence[np.ndarray],
    position: Sequence[float],
    alpha: float = 0.5,
) -> list[np.ndarray]:
    """Overlay each frame with the weights that a query gives to it.

    All frames share one colour scale, and the query is marked in its frame.

    Args:
        record (AttentionRecord): Of a block that saw these frames.
        frames (Sequence[np.ndarray]): The picture, or the frames of one clip,
            (H, W, 3) each.
        position (Sequence[float]): (y, x) or (t, y, x), each a fraction of the size,
            in [0, 1). Without t the middle frame is meant.
        alpha (float): Weight of the map over the picture. Defaults to 0.5.

    Returns:
        list[np.ndarray]: As many pictures as frames; one, if the block sees frames
        one by one.
    """
    from mmengine.visualization import Visualizer

    if not all(0 <= p < 1 for p in position) or len(position) not in (2, 3):
        raise ValueError(
            'position must be (y, x) or (t, y, x) with fractions in [0, 1), but got '
            f'{tuple(position)}'
        )
    time, y, x = position if len(position) == 3 else (0.5, *position)
    height, width = frames[0].shape[:2]
    frame, row, column = int(time * len(frames)), int(y * height), int(x * width)
    if len(record.grid) == 3:
        size = (len(frames), height, width)
        heat = query_map(record, (frame, row, column), size)
    else:
        sample = frame if len(frames) > 1 else 0
        heat = query_map(record, (row, column), (height, width), sample)[None]
        frames, frame = [frames[frame]], 0
    # One wide picture has one colour scale.
    strip = np.ascontiguousarray(np.concatenate(list(frames), axis=1))
    heat = torch.cat(list(heat.float().cpu()), dim=1)
    drawn = Visualizer.draw_featmap(heat[None], strip, alpha=alpha)
    pictures = [np.ascontiguousarray(p) for p in np.split(drawn, len(frames), axis=1)]
    mark(pictures[frame], row, column)
    return pictures


def film_strip(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """At most eight pictures, evenly spaced, side by side."""
    count = min(len(pictures), _MAX_STRIP)
    chosen = np.linspace(0, len(pictures) - 1, count).round().astype(int)
    return np.concatenate([pictures[index] for index in chosen], axis=1)


def mark(picture: np.ndarray, row: int, column: int) -> None:
    """Draw a ring around a pixel, in place."""
    import cv2

    radius = max(3, min(picture.shape[:2]) // 32)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.circle(picture, (column, row), radius, colour, thickness)


def network_frames(model: nn.Module, inputs: Tensor) -> list[np.ndarray]:
    """What a network was given, as pictures: its normalisation taken back.

    Args:
        model (nn.Module): Its ``data_preprocessor`` tells mean, std and colour order.
        inputs (Tensor): (N, C, H, W), or (N, C, T, H, W) of which the first clip is
            taken.

    Returns:
        list[np.ndarray]: N pictures, or the T frames of the first clip.
    """
    x = inputs[0].transpose(0, 1) if inputs.ndim == 5 else inputs
    x = x.detach().float().cpu()
    preprocessor = getattr(model, 'data_preprocessor', None)
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    if isinstance(mean, Tensor) and isinstance(std, Tensor):
        mean, std = (value.float().cpu().view(1, -1, 1, 1) for value in (mean, std))
        x = x * std + mean
    else:
        low, high = x.min(), x.max()
        x = (x - low) / (high - low).clamp_min(1e-6) * 255
    if x.shape[1] != 3:  # optical flow
        x = x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    elif not _is_rgb(preprocessor):
        x = x.flip(1)
    return list(x.clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy())


def _is_rgb(preprocessor: nn.Module | None) -> bool:
    # mmaction decodes to RGB; the others decode to BGR and may turn it.
    flags = ('to_rgb', 'channel_conversion', '_channel_conversion')
    turned = any(getattr(preprocessor, flag, False) is True for flag in flags)
    return turned or type(preprocessor).__module__.startswith('mmaction')


def draw_spectrum(
    spectrum: Spectrum, response: tuple[Tensor, Tensor] | None = None, title: str = ''
) -> np.ndarray:
    """Histogram of the eigenvalues, and the filter's gain over them.

    Args:
        spectrum (Spectrum): From :func:`graph_spectrum`.
        response (tuple[Tensor, Tensor], optional): Eigenvalues and gains, from
            :func:`filter_response`. Defaults to None.
        title (str): Defaults to ''.

    Returns:
        np.ndarray: (H, W, 3).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), dpi=100, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    shares, edges = spectrum.histogram()
    axes.stairs(
        shares.clamp_min(0).numpy(),
        edges.numpy(),
        fill=True,
        color='tab:blue',
        alpha=0.6,
    )
    axes.set_yscale('log')
    axes.set_xlabel('eigenvalue of the affinity')
    axes.set_ylabel('share' if spectrum.exact else 'share (estimated)')
    if title:
        axes.set_title(title)
    if response is not None:
        gains = axes.twinx()
        gains.plot(*(value.detach().cpu().numpy() for value in response), 'tab:red')
        gains.set_ylabel('gain of the filter', color='tab:red')
        gains.set_ylim(bottom=0)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
