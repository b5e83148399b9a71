# Copyright (c) The nl_plugins authors. All rights reserved.
"""Pictures of attention and of spectra, as RGB arrays (H, W, 3) of uint8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn as nn
from torch import Tensor

from .record import AttentionRecord, query_map
from .spectrum import Spectrum

MIN_SIDE = 224  # pixels of the smaller side of each frame that is drawn
_MAX_STRIP = 8  # frames of a film strip
_PER_ROW = 4
_MORE, _LESS = (255, 150, 0), (0, 110, 255)  # RGB of weights above and below 0
_BAR = 26  # height of the scale


@dataclass
class Overlay:
    """Frames under the weights of one query, and the scale of the weights.

    Attributes:
        pictures (list[np.ndarray]): (H, W, 3) each.
        low (float): Smallest weight, at the left end of the scale.
        high (float): Largest weight, at the right end.
        alpha (float): Share of the colour at the ends of the scale.
    """

    pictures: list[np.ndarray]
    low: float
    high: float
    alpha: float

    def with_scale(self, picture: np.ndarray) -> np.ndarray:
        """The picture with the scale of the weights below."""
        import cv2

        width = picture.shape[1]
        bar = np.full((_BAR, width, 3), 255, np.uint8)
        texts = [f'{value:.2g}' for value in (self.low, self.high)]
        texts[1] += ' = A(query, here)'
        widths = [
            cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0]
            for text in texts
        ]
        begin, end = widths[0] + 10, width - widths[1] - 10
        ramp = np.linspace(self.low, self.high, max(end - begin, 1))
        grey = np.full((_BAR - 12, len(ramp), 3), 128, np.uint8)
        heat = np.broadcast_to(_share(ramp, self.low, self.high), grey.shape[:2])
        bar[6:-6, begin : begin + len(ramp)] = _tint(grey, heat, self.alpha)
        for text, left in zip(texts, (4, end + 6)):
            cv2.putText(
                bar,
                text,
                (left, _BAR - 9),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.4,
                (0, 0, 0),
                1,
                cv2.LINE_AA,
            )
        return np.concatenate([picture, bar])

    def sheet(self) -> np.ndarray:
        """One picture: the frames (see :func:`film_strip`) over their scale."""
        return self.with_scale(film_strip(self.pictures))


def draw_attention(
    record: AttentionRecord,
    frames: Sequence[np.ndarray],
    position: Sequence[float],
    alpha: float = 0.8,
) -> Overlay:
    """Tint each frame by the weights that a query gives to it.

    The more orange, the larger the weight: from none at the smallest weight of the row
    to ``alpha`` at the largest, or, in a row with weights below 0, blue for these and
    none at 0. All frames share one scale, and the query is marked in its frame. Frames
    smaller than 224 pixels are enlarged by a whole factor.

    Args:
        record (AttentionRecord): Of a block that saw these frames.
        frames (Sequence[np.ndarray]): The picture, or the frames of one clip,
            (H, W, 3) each.
        position (Sequence[float]): (y, x) or (t, y, x), each a fraction of the size,
            in [0, 1). Without t the middle frame is meant.
        alpha (float): Share of the colour at the largest weight. Defaults to 0.8.

    Returns:
        Overlay: With as many pictures as frames; one, if the block sees frames one by
        one.

    Raises:
        ValueError: If the position has other than two or three fractions in [0, 1).
    """
    if not all(0 <= p < 1 for p in position) or len(position) not in (2, 3):
        raise ValueError(
            'position must be (y, x) or (t, y, x) with fractions in [0, 1), but got '
            f'{tuple(position)}'
        )
    frames = enlarge(frames)
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
    heat = heat.float().cpu().numpy()
    low, high = float(heat.min()), float(heat.max())
    shares = _share(heat, low, high)
    pictures = [_tint(f, share, alpha) for f, share in zip(frames, shares)]
    mark(pictures[frame], row, column)
    return Overlay(pictures, low, high, alpha)


def enlarge(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Frames whose smaller side has at least 224 pixels, by a whole factor."""
    import cv2

    height, width = frames[0].shape[:2]
    factor = -(-MIN_SIDE // min(height, width))
    size = (width * factor, height * factor)
    return [
        frame if factor == 1 else cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
        for frame in frames
    ]


def film_strip(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """At most eight pictures, evenly spaced, four a row, with their frame's number."""
    import cv2

    if len(pictures) == 1:
        return pictures[0]
    count = min(len(pictures), _MAX_STRIP)
    chosen = np.linspace(0, len(pictures) - 1, count).round().astype(int)
    cells = []
    for index in chosen:
        cell = np.ascontiguousarray(pictures[index]).copy()
        place = (6, 18)
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                cell,
                f't = {index}',
                place,
                cv2.FONT_HERSHEY_SIMPLEX,
                0.5,
                colour,
                thickness,
                cv2.LINE_AA,
            )
        cells.append(cell)
    columns = min(count, _PER_ROW)
    cells += [np.full_like(cells[0], 255)] * (-count % columns)
    rows = [
        np.concatenate(cells[begin : begin + columns], axis=1)
        for begin in range(0, len(cells), columns)
    ]
    return np.concatenate(rows)


def mark(picture: np.ndarray, row: int, column: int) -> None:
    """Draw a ring around a pixel, in place."""
    import cv2

    radius = max(3, min(picture.shape[:2]) // 32)
    for colour, thickness in (((0, 0, 0), 5), ((255, 255, 255), 2)):
        cv2.circle(picture, (column, row), radius, colour, thickness, cv2.LINE_AA)


def _share(weights: np.ndarray, low: float, high: float) -> np.ndarray:
    """Weights as shares of the colour: 0..1, or -1..1 where some are below 0."""
    if low >= 0:
        return (weights - low) / ((high - low) or 1.0)
    return weights / max(-low, high)


def _tint(picture: np.ndarray, heat: np.ndarray, alpha: float) -> np.ndarray:
    """A half desaturated picture under colour in proportion to heat in [-1, 1]."""
    scene = picture.astype(np.float32)
    scene = 0.5 * (scene + scene.mean(2, keepdims=True))
    colour = np.where(heat[..., None] >= 0, _MORE, _LESS)
    share = alpha * np.abs(heat)[..., None].clip(0, 1)
    return ((1 - share) * scene + share * colour).round().astype(np.uint8)


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
