# Copyright (c) The nl_plugins authors. All rights reserved.
"""Shapes, backgrounds and colours shared by the mini data sets.

Images are (H, W, 3) uint8 in OpenCV's BGR order; positions are (x, y) pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np

SHAPES = ('disc', 'ring', 'square', 'triangle', 'cross', 'star')
_SUBPIXEL_BITS = 4
_UNIT = 1 << _SUBPIXEL_BITS


def _regular(corners: int, radii: Sequence[float] = (1.0,)) -> np.ndarray:
    """Corners of a polygon around the origin, radii used in turn. -> (K, 2)"""
    angles = np.arange(corners) * 2 * np.pi / corners
    radius = np.array([radii[i % len(radii)] for i in range(corners)])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None]


_ARM = 0.36
_POLYGONS = dict(
    square=_regular(4, (1.15,)),
    triangle=_regular(3, (1.25,)),
    star=_regular(10, (1.25, 0.5)),
    cross=1.1
    * np.array(
        [
            (_ARM, 1),
            (_ARM, _ARM),
            (1, _ARM),
            (1, -_ARM),
            (_ARM, -_ARM),
            (_ARM, -1),
            (-_ARM, -1),
            (-_ARM, -_ARM),
            (-1, -_ARM),
            (-1, _ARM),
            (-_ARM, _ARM),
            (-_ARM, 1),
        ]
    ),
)


def fill_polygon(
    image: np.ndarray, points: np.ndarray, colour: tuple[int, int, int]
) -> None:
    """Fill an anti-aliased polygon at subpixel corners (K, 2) in place."""
    fixed = np.round(np.asarray(points) * _UNIT).astype(np.int32)
    cv2.fillPoly(image, [fixed], colour, cv2.LINE_AA, _SUBPIXEL_BITS)


def draw_shape(
    image: np.ndarray,
    shape: str,
    centre: tuple[float, float],
    radius: float,
    colour: tuple[int, int, int],
    angle: float = 0.0,
) -> None:
    """Draw one of ``SHAPES`` in place; ``angle`` in radians."""
    if shape in _POLYGONS:
        c, s = np.cos(angle), np.sin(angle)
        corners = _POLYGONS[shape] @ np.array([(c, s), (-s, c)])
        fill_polygon(image, corners * radius + np.asarray(centre), colour)
        return
    if shape not in SHAPES:
        raise ValueError(f'shape must be one of {SHAPES}, but got {shape!r}')
    fixed = tuple(int(round(v * _UNIT)) for v in centre)
    thickness = -1 if shape == 'disc' else max(1, int(round(radius * 0.45)))
    ring = radius if shape == 'disc' else radius * 0.85
    cv2.circle(
        image,
        fixed,
        int(round(ring * _UNIT)),
        colour,
        thickness,
        cv2.LINE_AA,
        _SUBPIXEL_BITS,
    )


def background(
    rng: np.random.Generator,
    height: int,
    width: int,
    contrast: float = 18.0,
    brightness: tuple[float, float] = (50, 205),
) -> np.ndarray:
    """Smooth random colours with fine noise. -> (H, W, 3) uint8"""
    base = rng.uniform(*brightness, size=3)
    coarse = rng.normal(0, contrast, size=(3, 4, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = rng.normal(0, 6, size=(height, width, 3))
    return np.clip(base + smooth + noise, 0, 255).astype(np.uint8)


def contrasting_colour(
    rng: np.random.Generator, image: np.ndarray, distance: float = 70.0
) -> tuple[int, int, int]:
    """A random colour far from the image's mean: colour tells no class."""
    mean = image.reshape(-1, 3).mean(axis=0)
    while True:
        colour = rng.integers(0, 256, size=3)
        if np.abs(colour - mean).mean() > distance * 0.75 and (
            np.abs(colour.mean() - mean.mean()) > distance * 0.5
        ):
            return tuple(int(v) for v in colour)
