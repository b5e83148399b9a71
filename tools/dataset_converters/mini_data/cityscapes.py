# Copyright (c) The nl_plugins authors. All rights reserved.
"""Mini Cityscapes: drawn road scenes with the 19 training classes.

Two pairs of classes look exactly alike; only a distant sign tells them apart:

* the strip beside the road is a ``fence`` when the moon is in the sky at the
  other side of the picture, and a ``wall`` when it is the sun;
* the box on the road is a ``bus`` when the traffic sign at the other side of
  the picture is round, and a ``truck`` when it is a triangle.

A third pair needs nearer context: a ``rider`` is a ``person`` on two wheels.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from files import write_picture

from mini_data.drawing import draw_shape, fill_polygon

HEIGHT, WIDTH = 128, 256
CITIES = dict(train=('aachen', 'bremen', 'ulm'), val=('lindau', 'munster'))
CLASSES = (
    'road',
    'sidewalk',
    'building',
    'wall',
    'fence',
    'pole',
    'traffic light',
    'traffic sign',
    'vegetation',
    'terrain',
    'sky',
    'person',
    'rider',
    'car',
    'truck',
    'bus',
    'train',
    'motorcycle',
    'bicycle',
)
ID = {name: i for i, name in enumerate(CLASSES)}
IGNORE = 255
_STREAM = 20


class _Canvas:
    """An image and its label map, always drawn together."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
        self.label = np.full((HEIGHT, WIDTH), IGNORE, dtype=np.uint8)

    def colour(self, low: int = 40, high: int = 215) -> tuple[int, int, int]:
        return tuple(int(v) for v in self.rng.integers(low, high, size=3))

    def near(self, base: tuple[int, int, int], spread: int = 22) -> tuple:
        """A colour around ``base``: a hint, never a key to the class."""
        shifted = np.asarray(base) + self.rng.integers(-spread, spread + 1, size=3)
        return tuple(int(v) for v in np.clip(shifted, 0, 255))

    def polygon(self, points: np.ndarray, colour: tuple, name: str) -> None:
        fill_polygon(self.image, points, colour)
        corners = np.round(np.asarray(points)).astype(np.int32)
        cv2.fillPoly(self.label, [corners], ID[name])

    def box(self, x0, y0, x1, y1, colour: tuple, name: str) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, name)

    def circle(
        self, x: float, y: float, radius: int, colour: tuple, name: str, width: int = -1
    ) -> None:
        centre = int(round(x)), int(round(y))
        cv2.circle(self.image, centre, radius, colour, width, cv2.LINE_AA)
        cv2.circle(self.label, centre, radius, ID[name], width)


def _ground(c: _Canvas, horizon: int) -> None:
    """Sky, terrain, sidewalks and road."""
    c.box(0, 0, WIDTH - 1, horizon, c.near((205, 170, 130), 35), 'sky')
    c.box(0, horizon, WIDTH - 1, HEIGHT - 1, c.near((70, 130, 90)), 'terrain')
    vanish = WIDTH / 2 + c.rng.uniform(-20, 20)
    grey = c.near((120, 120, 120))
    walk = [(vanish - 26, horizon), (vanish + 26, horizon)]
    walk += [(WIDTH + 40, HEIGHT), (-40, HEIGHT)]
    c.polygon(walk, c.near((150, 140, 160)), 'sidewalk')
    road = [(vanish - 16, horizon), (vanish + 16, horizon)]
    c.polygon(road + [(WIDTH - 18, HEIGHT), (18, HEIGHT)], grey, 'road')
    for t in np.linspace(0.15, 0.95, 5):
        y = horizon + t * (HEIGHT - horizon)
        x = vanish + t * (WIDTH / 2 - vanish)
        fill_polygon(
            c.image,
            [(x - 1 - t, y), (x + 1 + t, y), (x + 1 + t, y + 5), (x - 1 - t, y + 5)],
            (225, 225, 225),
        )


def _houses_and_trees(c: _Canvas, horizon: int) -> None:
    x = c.rng.uniform(-20, 0)
    while x < WIDTH:
        width = c.rng.uniform(22, 46)
        if 95 < x + width / 2 < 160:  # the street stays open to the sky
            x += width
            continue
        if c.rng.random() < 0.6:
            top = horizon - c.rng.uniform(14, 36)
            c.box(x, top, x + width, horizon + 4, c.colour(60, 190), 'building')
            pane = c.colour(20, 120)
            for wx in np.arange(x + 4, x + width - 5, 8):
                for wy in np.arange(top + 4, horizon - 3, 8):
                    fill_polygon(
                        c.image,
                        [(wx, wy), (wx + 3, wy), (wx + 3, wy + 4), (wx, wy + 4)],
                        pane,
                    )
        else:
            green = c.near((60, 120, 70), 30)
            stem = x + width / 2
            c.box(stem - 1.5, horizon - 8, stem + 1.5, horizon + 6, green, 'vegetation')
            for _ in range(5):
                dx, dy = c.rng.uniform(-8, 8), c.rng.uniform(-10, 4)
                radius = int(c.rng.integers(5, 10))
                shade = c.near(green, 12)
                c.circle(stem + dx, horizon - 14 + dy, radius, shade, 'vegetation')
        x += width


def _strip(c: _Canvas, horizon: int, left: bool, name: str) -> None:
    """The same railings whether they are called wall or fence."""
    x0, x1 = (2, 62) if left else (WIDTH - 62, WIDTH - 2)
    top = horizon + 3
    c.box(x0, top, x1, top + 11, c.near((135, 150, 165)), name)
    for x in range(x0 + 3, x1, 6):
        cv2.line(c.image, (x, top + 1), (x, top + 10), (70, 75, 80), 1)


def _sky_mark(c: _Canvas, left: bool, moon: bool) -> None:
    """Sun or moon; part of the sky in the labels."""
    x = 18 + c.rng.uniform(0, 30)
    x, y = (x if left else WIDTH - x), c.rng.uniform(11, 15)
    sky = tuple(int(v) for v in c.image[2, WIDTH // 2])
    light = c.near((190, 245, 250), 5)
    draw_shape(c.image, 'disc', (x, y), 8, light)
    if moon:
        draw_shape(c.image, 'disc', (x + 5, y - 2), 7, sky)


def _post(c: _Canvas, horizon: int, left: bool, kind: str) -> None:
    """A pole with a traffic light, or with a 'round' or 'triangle' sign."""
    x = 14 + c.rng.uniform(0, 30)
    x = x if left else WIDTH - x
    top = horizon - 12 + c.rng.uniform(-3, 3)
    c.box(x - 1, top, x + 1, horizon + 34, c.near((90, 90, 90)), 'pole')
    if kind == 'light':
        c.box(
            x - 4, top - 10, x + 4, top + 8, c.near((40, 40, 40), 10), 'traffic light'
        )
        for dy, lamp in ((-6, (60, 60, 235)), (-1, (60, 210, 235)), (4, (70, 220, 70))):
            draw_shape(c.image, 'disc', (x, top + dy), 2.2, lamp)
        return
    colour = c.colour(120, 250)
    shape = 'disc' if kind == 'round' else 'triangle'
    mask = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for target, value in ((c.image, colour), (mask, (255, 255, 255))):
        draw_shape(target, shape, (x, top - 2), 7.5, value, -np.pi / 2)
    c.label[mask[..., 0] > 127] = ID['traffic sign']


def _large_vehicle(c: _Canvas, x: float, y: float, name: str) -> None:
    """The same box whether it is called bus or truck; a train is longer."""
    length, height = (62, 22) if name == 'train' else (38, 24)
    colour = c.colour()
    c.box(x - length / 2, y - height, x + length / 2, y, colour, name)
    for wx in np.arange(x - length / 2 + 4, x + length / 2 - 5, 9):
        pane = [(wx, y - height + 5), (wx + 5, y - height + 5)]
        pane += [(wx + 5, y - height + 11), (wx, y - height + 11)]
        fill_polygon(c.image, pane, (60, 50, 45))
    if name == 'train':
        rails = (int(x - 42), int(y + 2)), (int(x + 42), int(y + 2))
        cv2.line(c.image, *rails, (50, 50, 60), 2)
        return
    for dx in (-length / 3, length / 3):
        c.circle(x + dx, y, 4, (30, 30, 30), name)


def _car(c: _Canvas, x: float, y: float) -> None:
    colour = c.colour()
    c.box(x - 13, y - 8, x + 13, y, colour, 'car')
    roof = [(x - 8, y - 14), (x + 6, y - 14), (x + 10, y - 8), (x - 11, y - 8)]
    c.polygon(roof, colour, 'car')
    pane = [(x - 6, y - 13), (x + 5, y - 13), (x + 7, y - 9), (x - 8, y - 9)]
    fill_polygon(c.image, pane, (70, 60, 55))
    for dx in (-8, 8):
        c.circle(x + dx, y, 3, (30, 30, 30), 'car')


def _human(c: _Canvas, x: float, y: float, name: str) -> None:
    clothes = c.colour()
    c.box(x - 3, y - 15, x + 3, y, clothes, name)
    c.circle(x, y - 18, 3, c.near((130, 165, 205)), name)


def _two_wheels(c: _Canvas, x: float, y: float, name: str) -> None:
    """Bicycle: thin open wheels; motorcycle: filled wheels and a body."""
    colour = c.colour(20, 110)
    _human(c, x, y - 6, 'rider')
    if name == 'motorcycle':
        c.box(x - 9, y - 9, x + 9, y - 4, colour, name)
        for dx in (-8, 8):
            c.circle(x + dx, y - 2, 4, colour, name)
    else:
        for dx in (-7, 7):
            c.circle(x + dx, y - 3, 5, colour, name, width=2)
        c.box(x - 7, y - 5, x + 7, y - 3, colour, name)


def draw_scene(
    rng: np.random.Generator, moon: bool, round_sign: bool
) -> tuple[np.ndarray, np.ndarray]:
    """One road scene.

    Args:
        rng (np.random.Generator): Draws everything but the two signs.
        moon (bool): Moon and ``fence``, else sun and ``wall``.
        round_sign (bool): Round sign and ``bus``, else triangle and ``truck``.

    Returns:
        tuple: image (128, 256, 3) uint8 BGR, label train ids (128, 256) uint8.
    """
    c = _Canvas(rng)
    horizon = int(rng.integers(46, 56))
    left = bool(rng.random() < 0.5)
    _ground(c, horizon)
    _houses_and_trees(c, horizon)
    _strip(c, horizon, left=left, name='fence' if moon else 'wall')
    _sky_mark(c, left=not left, moon=moon)
    vehicle_left = bool(rng.random() < 0.5)
    _post(c, horizon, not vehicle_left, 'round' if round_sign else 'triangle')
    _post(c, horizon, vehicle_left, 'light')
    side = -1 if vehicle_left else 1
    if rng.random() < 0.3:
        _large_vehicle(c, WIDTH / 2 + rng.uniform(-15, 15), horizon + 18, 'train')
    y = horizon + rng.uniform(34, 44)
    _large_vehicle(
        c, WIDTH / 2 + side * rng.uniform(40, 60), y, 'bus' if round_sign else 'truck'
    )
    _car(c, WIDTH / 2 - side * rng.uniform(20, 60), horizon + rng.uniform(36, 58))
    for _ in range(2):
        wheels = 'motorcycle' if rng.random() < 0.5 else 'bicycle'
        x = WIDTH / 2 + rng.uniform(-80, 80)
        _two_wheels(c, x, horizon + rng.uniform(44, 66), wheels)
    for _ in range(3):
        x = rng.choice((-1, 1)) * rng.uniform(70, 118) + WIDTH / 2
        _human(c, x, horizon + rng.uniform(24, 46), 'person')
    hood = [(60, HEIGHT), (90, HEIGHT - 7), (166, HEIGHT - 7), (196, HEIGHT)]
    fill_polygon(c.image, hood, (45, 40, 40))
    cv2.fillPoly(c.label, [np.array(hood, dtype=np.int32)], IGNORE)
    light = rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, size=3)
    noise = rng.normal(0, 5, size=c.image.shape)
    image = np.clip(c.image * light + noise, 0, 255).astype(np.uint8)
    return image, c.label


def write(
    folder: Path, seed: int, num_train: int, num_val: int, advance: Callable[[], None]
) -> None:
    """Write ``leftImg8bit`` and ``gtFine`` below ``folder``."""
    for number, (split, count) in enumerate((('train', num_train), ('val', num_val))):
        cities = CITIES[split]
        for i in range(count):
            rng = np.random.default_rng([seed, _STREAM, number, i])
            # all four combinations of the two signs equally often
            image, label = draw_scene(rng, bool(i & 1), bool(i & 2))
            city = cities[i % len(cities)]
            stem = f'{city}_{i // len(cities):06d}_000019'
            for kind, suffix, picture in (
                ('leftImg8bit', 'leftImg8bit', image),
                ('gtFine', 'gtFine_labelTrainIds', label),
            ):
                target = folder / kind / split / city
                target.mkdir(parents=True, exist_ok=True)
                path = target / f'{stem}_{suffix}.png'
                write_picture(path, picture)
            advance()
