# Copyright (c) The nl_plugins authors. All rights reserved.
"""Mini COCO: drawn scenes with boxes, polygons and crowds in the format of COCO 2017.

Eight of COCO's categories are drawn; the files list all eighty, with the gaps that
their ids have. Two look exactly alike: the box on wheels is a ``bus`` when a
``stop sign`` stands at the other side of the picture, and a ``truck`` when it is a
``traffic light``.
"""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from files import write_picture, write_text

from mini_data.drawing import background, contrasting_colour, fill_polygon

HEIGHT, WIDTH = 128, 160
#: COCO's eighty names; a number skips the ids between two of them.
_NAMES = """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant
13 stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra
giraffe 27 backpack umbrella 31 handbag tie suitcase frisbee skis snowboard
sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle
46 wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot
hot_dog pizza donut cake chair couch potted_plant bed 67 dining_table 70 toilet 72 tv
laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator 84
book clock vase scissors teddy_bear hair_drier toothbrush
"""
CLASSES = (
    'bus',
    'truck',
    'traffic light',
    'stop sign',
    'sports ball',
    'kite',
    'donut',
    'book',
)
_STREAM = 50


def category_ids() -> dict[str, int]:
    """COCO's eighty names and their ids, from 1 to 90."""
    ids, number = {}, 1
    for word in _NAMES.split():
        if word.isdigit():
            number = int(word)
        else:
            ids[word.replace('_', ' ')] = number
            number += 1
    return ids


_UPPER = dict(
    person='person',
    bicycle='vehicle',
    traffic_light='outdoor',
    bird='animal',
    backpack='accessory',
    frisbee='sports',
    bottle='kitchen',
    banana='food',
    chair='furniture',
    tv='electronic',
    microwave='appliance',
    book='indoor',
)


def categories() -> list[dict]:
    """The ``categories`` of the annotation files."""
    rows, upper = [], ''
    for name, number in category_ids().items():
        upper = _UPPER.get(name.replace(' ', '_'), upper)
        rows.append(dict(supercategory=upper, id=number, name=name))
    return rows


def _regular(corners: int, turn: float = 0.0) -> np.ndarray:
    angles = np.arange(corners) * 2 * np.pi / corners + turn
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _vehicle() -> np.ndarray:
    """A box on two wheels, twice as wide as high, in one outline."""
    wheels = []
    for centre in (0.55, -0.55):
        angles = np.linspace(0, np.pi, 7)
        wheel = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        wheels.append(wheel * 0.22 + (centre, 0.33))
    body = [(-1, 0.33), (-1, -0.5), (1, -0.5), (1, 0.33)]
    return np.concatenate([np.array(body), *wheels])


#: Outlines around the origin, of about unit size, (K, 2).
_OUTLINES = {
    'bus': _vehicle(),
    'truck': _vehicle(),
    'traffic light': np.array([(-0.4, -1), (0.4, -1), (0.4, 1), (-0.4, 1)]),
    'stop sign': _regular(8, np.pi / 8),
    'sports ball': _regular(20),
    'kite': np.array([(0, -1), (0.7, -0.3), (0, 1), (-0.7, -0.3)]),
    'donut': _regular(20),
    'book': np.array([(-0.9, -0.65), (0.9, -0.65), (0.9, 0.65), (-0.9, 0.65)]),
}
_TURNS = {'kite': 0.5, 'book': 0.4}


class _Scene:
    """A picture and its annotations, drawn together."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.image = background(rng, HEIGHT, WIDTH)
        self.ground = self.image.copy()
        self.taken = np.zeros((HEIGHT, WIDTH), dtype=bool)
        self.objects: list[dict] = []

    def _outline(self, name: str, centre, size: float) -> np.ndarray:
        turn = self.rng.uniform(-1, 1) * _TURNS.get(name, 0.0)
        c, s = np.cos(turn), np.sin(turn)
        return _OUTLINES[name] @ np.array([(c, s), (-s, c)]) * size + centre

    def _mask(self, outline: np.ndarray) -> np.ndarray:
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 1)
        return mask.astype(bool)

    def _is_free(self, outline: np.ndarray, margin: float = 2.0) -> bool:
        low, high = outline.min(0) - margin, outline.max(0) + margin
        if (low < 0).any() or (high > (WIDTH - 1, HEIGHT - 1)).any():
            return False
        (x0, y0), (x1, y1) = low.astype(int), high.astype(int)
        return not self.taken[y0 : y1 + 1, x0 : x1 + 1].any()

    def _draw(self, name: str, outline: np.ndarray, size: float) -> None:
        colour = contrasting_colour(self.rng, self.ground)
        fill_polygon(self.image, outline, colour)
        centre = outline.mean(0)
        inner = contrasting_colour(self.rng, self.ground)
        if name == 'donut':
            hole = (outline - centre) * 0.4 + centre
            fill_polygon(
                self.image, hole, tuple(int(v) for v in self.ground.mean((0, 1)))
            )
        elif name == 'traffic light':
            for shift in (-0.6, 0.0, 0.6):
                lamp = _regular(10) * size * 0.22 + centre + (0, shift * size)
                fill_polygon(self.image, lamp, inner)
        elif name == 'stop sign':
            fill_polygon(
                self.image, (outline - centre) * np.array((0.7, 0.2)) + centre, inner
            )
        elif name == 'book':
            fill_polygon(
                self.image, (outline - centre) * np.array((0.12, 0.9)) + centre, inner
            )
        self.taken |= self._mask(outline)

    def add(self, name: str, centre, size: float) -> bool:
        """Draw an object where nothing else is; whether there was room."""
        outline = self._outline(name, np.asarray(centre, dtype=float), size)
        if not self._is_free(outline):
            return False
        self._draw(name, outline, size)
        # Two digits, as in the real files.
        polygon = np.round(outline, 2)
        low, high = polygon.min(0), polygon.max(0)
        x, y = polygon[:, 0], polygon[:, 1]
        area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
        self.objects.append(
            dict(
                segmentation=[polygon.flatten().tolist()],
                area=round(float(area), 4),
                iscrowd=0,
                bbox=[round(float(v), 2) for v in (*low, *(high - low))],
                name=name,
            )
        )
        return True

    def add_crowd(self, name: str, centre) -> None:
        """Many small objects close together under one annotation."""
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        for _ in range(12):
            size = self.rng.uniform(2.5, 4)
            spot = np.asarray(centre) + self.rng.uniform(-12, 12, size=2)
            outline = self._outline(name, spot, size)
            if self._is_free(outline, 0.0):
                self._draw(name, outline, size)
                mask |= self._mask(outline)
        rows, columns = np.nonzero(mask)
        if not len(rows):
            return
        x, y = int(columns.min()), int(rows.min())
        self.objects.append(
            dict(
                segmentation=dict(counts=run_lengths(mask), size=[HEIGHT, WIDTH]),
                area=int(mask.sum()),
                iscrowd=1,
                bbox=[x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1],
                name=name,
            )
        )


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed code: lengths of runs by columns, the first of zeros."""
    flat = np.concatenate([[0], mask.flatten(order='F').astype(np.int8)])
    changes = np.flatnonzero(np.diff(flat))
    return np.diff([0, *changes.tolist(), mask.size]).tolist()


def draw_scene(
    rng: np.random.Generator, is_bus: bool, is_left: bool, has_crowd: bool
) -> tuple[np.ndarray, list[dict]]:
    """A picture (128, 160, 3) and its annotations, which lack their ids."""
    scene = _Scene(rng)
    side = -1 if is_left else 1
    size = rng.uniform(17, 24)
    centre = WIDTH / 2 + side * rng.uniform(36, 50), rng.uniform(70, 108)
    scene.add('bus' if is_bus else 'truck', centre, size)
    sign = 'stop sign' if is_bus else 'traffic light'
    height = rng.uniform(11, 15)
    scene.add(
        sign, (WIDTH / 2 - side * rng.uniform(48, 60), rng.uniform(20, 40)), height
    )
    wanted = int(rng.integers(2, 5))
    for _ in range(60):
        if not wanted:
            break
        name = CLASSES[4 + rng.integers(4)]
        spot = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        wanted -= scene.add(name, spot, rng.uniform(9, 20))
    if has_crowd:
        scene.add_crowd('sports ball', rng.uniform(20, (WIDTH - 20, HEIGHT - 20)))
    noise = rng.normal(0, 4, size=scene.image.shape)
    image = np.clip(scene.image + noise, 0, 255).astype(np.uint8)
    return image, scene.objects


def write(
    folder: Path, seed: int, num_train: int, num_val: int, advance: Callable[[], None]
) -> None:
    """Write ``{train,val}2017/*.jpg`` and ``annotations/instances_*2017.json``."""
    (folder / 'annotations').mkdir(parents=True)
    ids = category_ids()
    picture = annotation = 0
    for number, (split, count) in enumerate((('train', num_train), ('val', num_val))):
        images, annotations = [], []
        target = folder / f'{split}2017'
        target.mkdir()
        for i in range(count):
            rng = np.random.default_rng([seed, _STREAM, number, i])
            # All four combinations equally often; every ninth picture has a crowd.
            image, objects = draw_scene(rng, bool(i & 1), bool(i & 2), i % 9 == 4)
            picture += 1
            name = f'{picture:012d}.jpg'
            path = target / name
            write_picture(path, image, [cv2.IMWRITE_JPEG_QUALITY, 92])
            images.append(
                dict(
                    license=1,
                    file_name=name,
                    coco_url='',
                    height=HEIGHT,
                    width=WIDTH,
                    date_captured='2017-01-01 00:00:00',
                    flickr_url='',
                    id=picture,
                )
            )
            for thing in objects:
                annotation += 1
                row = {key: value for key, value in thing.items() if key != 'name'}
                # The order of the keys is that of the real files.
                shape = {
                    key: row.pop(key) for key in ('segmentation', 'area', 'iscrowd')
                }
                annotations.append(
                    dict(
                        **shape,
                        image_id=picture,
                        bbox=row['bbox'],
                        category_id=ids[thing['name']],
                        id=annotation,
                    )
                )
            advance()
        content = dict(
            info=dict(
                description='mini COCO (synthetic)',
                url='',
                version='1.0',
                year=2017,
                contributor='make_mini_data.py',
                date_created='2017/01/01',
            ),
            licenses=[dict(url='', id=1, name='Apache-2.0')],
            images=images,
            annotations=annotations,
            categories=categories(),
        )
        path = folder / 'annotations' / f'instances_{split}2017.json'
        write_text(path, json.dumps(content))
