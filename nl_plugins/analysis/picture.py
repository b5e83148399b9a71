# Copyright (c) The nl_plugins authors. All rights reserved.
"""Pictures of attention and of spectra, as RGB arrays (H, W, 3) of uint8."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn as nn
from torch import Tensor

from .record import AttentionRecord, query_map
from .spectrum import Spectrum

_MIN_HEIGHT = 224  # of a picture that people can read
_MAX_STRIP, _STRIP_COLUMNS = 8, 4  # frames of a film strip, and of a row of it
_BAR_HEIGHT = 34
# Two hues that the colour-blind can tell apart: blue, darker and brighter orange.
_NEGATIVE, _POSITIVE, _LARGEST = (
    np.array(colour, np.float32)
    for colour in ((40, 140, 255), (255, 120, 0), (255, 235, 130))
)


def draw_attention(
    record: AttentionRecord,
    frames: Sequence[np.ndarray],
    position: Sequence[float],
    alpha: float = 0.8,
) -> list[np.ndarray]:
    """Colour each frame where a query gives weight to it.

    The scene stays visible: it is paler, the weight is the opacity of orange (below 0:
    of blue) over it. All frames share one scale, which the bar below each names: from 0
    to the weight that half a percent of the positions exceed. The query is ringed.
    Frames that are less than 224 pixels high are enlarged.

    Args:
        record (AttentionRecord): Of a block that saw these frames.
        frames (Sequence[np.ndarray]): The picture, or the frames of one clip,
            (H, W, 3) each, RGB of uint8.
        position (Sequence[float]): (y, x) or (t, y, x), each a fraction of the size,
            in [0, 1). Without t the middle frame is meant.
        alpha (float): Opacity of the largest weight. Defaults to 0.8.

    Returns:
        list[np.ndarray]: As many pictures as frames; one, if the block sees frames
        one by one.

    Raises:
        ValueError: If the position is outside [0, 1).
    """
    if not all(0 <= p < 1 for p in position) or len(position) not in (2, 3):
        raise ValueError(
            'position must be (y, x) or (t, y, x) with fractions in [0, 1), but got '
            f'{tuple(position)}'
        )
    frames = [readable(frame) for frame in frames]
    time, (y, x) = query_time(position), position[-2:]
    height, width = frames[0].shape[:2]
    frame, row, column = int(time * len(frames)), int(y * height), int(x * width)
    if len(record.grid) == 3:
        size = (len(frames), height, width)
        heat = query_map(record, (frame, row, column), size)
    else:
        sample = frame if len(frames) > 1 else 0
        heat = query_map(record, (row, column), (height, width), sample)[None]
        frames, frame = [frames[frame]], 0
    heat = heat.float().cpu().numpy()
    limit = weight_limit(heat)
    pictures = [overlay(picture, h / limit, alpha) for picture, h in zip(frames, heat)]
    mark(pictures[frame], row, column)
    bar = weight_bar(width, limit, signed=bool((heat < 0).any()))
    return [np.concatenate([picture, bar]) for picture in pictures]


def query_time(position: Sequence[float]) -> float:
    """The fraction of the frames at which a position (y, x) or (t, y, x) is."""
    return position[0] if len(position) == 3 else 0.5


def readable(picture: np.ndarray) -> np.ndarray:
    """The picture, enlarged where it is less than 224 pixels high."""
    import cv2

    height, width = picture.shape[:2]
    if height >= _MIN_HEIGHT:
        return picture
    size = (round(width * _MIN_HEIGHT / height), _MIN_HEIGHT)
    return cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)


def weight_limit(heat: np.ndarray) -> float:
    """The magnitude that half a percent of the weights exceed, or the largest."""
    sizes = np.abs(heat)
    limit = float(np.quantile(sizes, 0.995))
    return limit if limit > 0 else float(sizes.max()) or 1.0


def overlay(picture: np.ndarray, heat: np.ndarray, alpha: float = 0.8) -> np.ndarray:
    """Colour a picture (H, W, 3) by weights (H, W), from 0 to 1, or to -1."""
    share = np.clip(heat, -1, 1)[..., None].astype(np.float32)
    size = np.abs(share)
    grey = picture.mean(2, keepdims=True)
    pale = 0.5 * picture + 0.3 * grey
    hue = np.where(share < 0, _NEGATIVE, _POSITIVE + size * (_LARGEST - _POSITIVE))
    opacity = alpha * size
    return ((1 - opacity) * pale + opacity * hue).round().astype(np.uint8)


def weight_bar(width: int, limit: float, signed: bool = False) -> np.ndarray:
    """The scale of :func:`overlay` over mid-grey, with its ends named."""
    import cv2

    bar = np.full((_BAR_HEIGHT, width, 3), 255, np.uint8)
    ends = ['0', f'>= {limit:.2g}']
    if signed:
        ends[0] = f'<= -{limit:.2g}'
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    widths = [cv2.getTextSize(end, font, size, 1)[0][0] for end in ends]
    left, right = 4, width - widths[1] - 4
    for end, x in zip(ends, (left, right)):
        cv2.putText(bar, end, (x, 14), font, size, (0, 0, 0), 1, cv2.LINE_AA)
    name = 'weight'
    own = cv2.getTextSize(name, font, size, 1)[0][0]
    if own + sum(widths) + 24 < width:  # narrow pictures have no room for it
        place = ((width - own) // 2, 14)
        cv2.putText(bar, name, place, font, size, (0, 0, 0), 1, cv2.LINE_AA)
    ramp = np.linspace(-1 if signed else 0, 1, width - 8)[None].repeat(10, 0)
    ground = np.full((10, width - 8, 3), 128, np.uint8)
    bar[20:30, 4:-4] = overlay(ground, ramp, 1.0)
    return bar


def film_strip(pictures: Sequence[np.ndarray], time: float = 0.0) -> np.ndarray:
    """At most eight pictures, evenly spaced, in rows of four, numbered from 0.

    The one at ``time``, a fraction of their number, is among them.
    """
    import cv2

    if len(pictures) == 1:
        return pictures[0]
    count = min(len(pictures), _MAX_STRIP)
    chosen = np.linspace(0, len(pictures) - 1, count).round().astype(int)
    asked = int(time * len(pictures))
    chosen[np.abs(chosen - asked).argmin()] = asked
    cells = []
    for index in chosen:
        cell = pictures[index].copy()
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            text = (f't = {index}', (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5)
            cv2.putText(cell, *text, colour, thickness, cv2.LINE_AA)
        cells.append(cell)
    columns = min(count, _STRIP_COLUMNS)
    cells += [np.full_like(cells[0], 255)] * (-count % columns)
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def mark(picture: np.ndarray, row: int, column: int) -> None:
    """Draw a ring around a pixel, in place."""
    import cv2

    radius = max(6, min(picture.shape[:2]) // 32)
    for colour, thickness in (((0, 0, 0), 6), ((255, 255, 255), 2)):
        cv2.circle(picture, (column, row), radius, colour, thickness, cv2.LINE_AA)


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
