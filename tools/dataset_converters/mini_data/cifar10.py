# Copyright (c) The nl_plugins authors. All rights reserved.
"""Mini CIFAR-10: 32x32 pictures whose class is a shape or a relation.

Six classes are one shape each. The other four show two marks in opposite parts
of the picture and differ only in how the marks relate: the same shape or not,
two bars parallel or at right angles. Colours, places, sizes and small rotations
are random in all classes.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from cifar_format import write_cifar10

from mini_data.drawing import (
    SHAPES,
    background,
    draw_shape,
    fill_polygon,
)

CLASSES = SHAPES + ('equal pair', 'unequal pair', 'parallel bars', 'crossed bars')
SIZE = 32
_STREAM = 10  # keeps the random streams of the four sets apart


def _distant_places(rng: np.random.Generator) -> np.ndarray:
    """Two centres on opposite sides of the picture. -> (2, 2)"""
    angle = rng.uniform(0, 2 * np.pi)
    offset = 9.5 * np.array([np.cos(angle), np.sin(angle)])
    centre = SIZE / 2 + rng.uniform(-1.5, 1.5, size=2)
    return np.stack([centre + offset, centre - offset])


def _light_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Any hue, brighter than every background."""
    return tuple(int(v) for v in rng.integers(140, 256, size=3))


def draw_image(rng: np.random.Generator, label: int) -> np.ndarray:
    """One picture of class ``label``. -> (32, 32, 3) uint8, BGR"""
    image = background(rng, SIZE, SIZE, contrast=14, brightness=(20, 90))
    if label < len(SHAPES):
        radius = rng.uniform(8.5, 11.5)
        centre = rng.uniform(radius + 0.5, SIZE - radius - 0.5, size=2)
        angle = rng.uniform(-0.4, 0.4)
        draw_shape(image, SHAPES[label], centre, radius, _light_colour(rng), angle)
    elif CLASSES[label].endswith('pair'):
        first, second = rng.choice(len(SHAPES), size=2, replace=False)
        if CLASSES[label] == 'equal pair':
            second = first
        for place, shape in zip(_distant_places(rng), (first, second)):
            angle = rng.uniform(-0.4, 0.4)
            draw_shape(image, SHAPES[shape], place, 5.5, _light_colour(rng), angle)
    else:
        angle = rng.uniform(0, np.pi)
        turn = np.pi / 2 if CLASSES[label] == 'crossed bars' else 0.0
        for place, direction in zip(_distant_places(rng), (angle, angle + turn)):
            along = np.array([np.cos(direction), np.sin(direction)])
            across = np.array([-along[1], along[0]])
            corners = [
                place + 6.5 * a * along + 1.5 * b * across
                for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))
            ]
            fill_polygon(image, corners, _light_colour(rng))
    noisy = image + rng.normal(0, 4, size=image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _split(
    seed: int, split: int, count: int, advance: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """-> (count, 3072) uint8 in CIFAR's planes of R, G, B; (count,) labels"""
    labels = np.arange(count) % len(CLASSES)
    np.random.default_rng([seed, _STREAM, split]).shuffle(labels)
    images = np.empty((count, 3 * SIZE * SIZE), dtype=np.uint8)
    for i, label in enumerate(labels):
        image = draw_image(np.random.default_rng([seed, _STREAM, split, i]), int(label))
        images[i] = image[..., ::-1].transpose(2, 0, 1).reshape(-1)
        advance()
    return images, labels


def write(
    folder: Path, seed: int, num_train: int, num_test: int, advance: Callable[[], None]
) -> None:
    """Write ``cifar-10-batches-py`` into ``folder``."""
    train = _split(seed, 0, num_train, advance)
    test = _split(seed, 1, num_test, advance)
    write_cifar10(folder, *train, *test, classes=CLASSES)
