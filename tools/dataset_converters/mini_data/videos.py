# Copyright (c) The nl_plugins authors. All rights reserved.
"""Mini Kinetics-400 (mp4) and mini Something-Something V1 (frame folders).

Classes come in pairs. In the *order* pairs one clip played backwards is a clip
of the other class, so no single frame and no unordered set of frames tells them
apart. In the *relation* pairs both classes hold the same events and differ in how
two events, distant in space or in time, relate. Things have random shapes and
colours everywhere except in the *shape* pair.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from files import write_picture, write_text, write_video

from mini_data.drawing import SHAPES, background, contrasting_colour, draw_shape

HEIGHT, WIDTH = 64, 84
FPS = 12
KINETICS_CLASSES = (
    'orbiting clockwise',  # order
    'orbiting counterclockwise',
    'swinging a square',  # shape in the same motion
    'swinging a triangle',
    'bouncing together',  # relation of two places
    'bouncing in turn',
    'returning to the same corner',  # relation of two times
    'moving on to another corner',
)
STHV1_CLASSES = (
    'Moving something from left to right',  # order, near in time
    'Moving something from right to left',
    'Moving something closer',
    'Moving something away',
    'Left thing hops before right thing',  # order, distant in time and place
    'Right thing hops before left thing',
    'Two things go the same way one after the other',  # relation, likewise
    'Two things go opposite ways one after the other',
)
_STREAMS = dict(kinetics400=30, sthv1=40)


class _Clip:
    """Frames over one background, with one random shape and colour a thing."""

    def __init__(self, rng: np.random.Generator, num_frames: int) -> None:
        self.rng = rng
        ground = background(rng, HEIGHT, WIDTH)
        self.frames = [ground.copy() for _ in range(num_frames)]
        self.ground = ground

    def thing(self, shape: str = '') -> tuple[str, tuple[int, int, int]]:
        shape = shape or SHAPES[self.rng.integers(len(SHAPES))]
        return shape, contrasting_colour(self.rng, self.ground)

    def draw(self, t: int, thing, x: float, y: float, radius: float, angle=0.0) -> None:
        draw_shape(self.frames[t], thing[0], (x, y), radius, thing[1], angle)

    def finish(self, backwards: bool = False) -> list[np.ndarray]:
        frames = self.frames[::-1] if backwards else self.frames
        noisy = []
        for frame in frames:
            noise = self.rng.normal(0, 4, size=frame.shape)
            noisy.append(np.clip(frame + noise, 0, 255).astype(np.uint8))
        return noisy


def _ramp(t: int, start: float, stop: float) -> float:
    """0 before ``start``, 1 after ``stop``, linear between."""
    return float(np.clip((t - start) / max(stop - start, 1e-6), 0, 1))


def kinetics_clip(
    rng: np.random.Generator, label: int, num_frames: int = 40
) -> list[np.ndarray]:
    """One clip of ``KINETICS_CLASSES[label]``. -> ``num_frames`` (64, 84, 3)"""
    clip = _Clip(rng, num_frames)
    pair, second = divmod(label, 2)
    phase = rng.uniform(0, 2 * np.pi)
    if pair == 0:
        thing, turns = clip.thing(), rng.uniform(1.2, 1.8)
        for t in range(num_frames):
            angle = phase + 2 * np.pi * turns * t / num_frames
            x, y = WIDTH / 2 + 24 * np.cos(angle), HEIGHT / 2 + 19 * np.sin(angle)
            clip.draw(t, thing, x, y, 8)
        return clip.finish(backwards=bool(second))
    if pair == 1:
        thing = clip.thing('triangle' if second else 'square')
        y = rng.uniform(22, 42)
        for t in range(num_frames):
            swing = np.sin(phase + 2 * np.pi * 2 * t / num_frames)
            clip.draw(
                t, thing, WIDTH / 2 + 22 * swing, y, 12, angle=phase + 0.6 * swing
            )
        return clip.finish()
    if pair == 2:
        left, right = clip.thing(), clip.thing()
        delay = np.pi if second else 0.0
        for t in range(num_frames):
            beat = phase + 2 * np.pi * 2.5 * t / num_frames
            for x, thing, shift in ((14, left, 0.0), (WIDTH - 14, right, delay)):
                clip.draw(t, thing, x, HEIGHT / 2 + 16 * np.sin(beat + shift), 9)
        return clip.finish()
    thing = clip.thing()
    corners = [(16, 15), (WIDTH - 16, 15), (16, HEIGHT - 15), (WIDTH - 16, HEIGHT - 15)]
    first, other = rng.choice(4, size=2, replace=False)
    early = num_frames * rng.uniform(0.02, 0.08)
    late = num_frames * rng.uniform(0.62, 0.68)
    for start, corner in ((early, first), (late, other if second else first)):
        for t in range(int(start), int(start + 0.3 * num_frames)):
            x, y = corners[corner]
            clip.draw(t, thing, x, y, 12, angle=phase)
    return clip.finish()


def sthv1_clip(
    rng: np.random.Generator, label: int, num_frames: int = 32
) -> list[np.ndarray]:
    """One clip of ``STHV1_CLASSES[label]``. -> ``num_frames`` (64, 84, 3)"""
    clip = _Clip(rng, num_frames)
    pair, second = divmod(label, 2)
    if pair == 0:
        thing, y = clip.thing(), rng.uniform(16, HEIGHT - 16)
        for t in range(num_frames):
            x = 12 + (WIDTH - 24) * _ramp(t, 2, num_frames - 3)
            clip.draw(t, thing, x, y, 10)
        return clip.finish(backwards=bool(second))
    if pair == 1:
        thing = clip.thing()
        x, y = rng.uniform(28, WIDTH - 28), rng.uniform(24, HEIGHT - 24)
        for t in range(num_frames):
            clip.draw(t, thing, x, y, 5 + 17 * _ramp(t, 2, num_frames - 3))
        return clip.finish(backwards=bool(second))
    if pair == 2:
        left, right = clip.thing(), clip.thing()
        for t in range(num_frames):
            for x, thing, start in ((16, left, 0.08), (WIDTH - 16, right, 0.68)):
                progress = _ramp(t, start * num_frames, (start + 0.24) * num_frames)
                y = HEIGHT / 2 + 12 - 26 * np.sin(np.pi * progress)
                clip.draw(t, thing, x, y, 9)
        return clip.finish(backwards=bool(second))
    up, down = clip.thing(), clip.thing()
    ways = [1, -1 if second else 1]
    if rng.random() < 0.5:
        ways = [-way for way in ways]
    upper_first = bool(rng.random() < 0.5)
    for t in range(num_frames):
        for number, (thing, y) in enumerate(((up, 16), (down, HEIGHT - 16))):
            start = 0.05 if (number == 0) == upper_first else 0.55
            progress = _ramp(t, start * num_frames, (start + 0.4) * num_frames)
            x = WIDTH / 2 + ways[number] * 52 * (progress - 0.5)
            if 0 < progress < 1:  # seen only while it moves
                clip.draw(t, thing, x, y, 9)
    return clip.finish()


def _labels(rng: np.random.Generator, count: int, num_classes: int) -> np.ndarray:
    labels = np.arange(count) % num_classes
    rng.shuffle(labels)
    return labels


def write_kinetics400(
    folder: Path, seed: int, num_train: int, num_val: int, advance: Callable[[], None]
) -> None:
    """Write ``videos_{train,val}/*.mp4``, their lists and ``label_map.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate((('train', num_train), ('val', num_val))):
        key = [seed, _STREAMS['kinetics400'], number]
        videos = folder / f'videos_{split}'
        videos.mkdir(exist_ok=True)
        lines = []
        labels = _labels(np.random.default_rng(key), count, len(KINETICS_CLASSES))
        for i, label in enumerate(labels):
            frames = kinetics_clip(np.random.default_rng(key + [i]), int(label))
            name = f'mini{split}{i:05d}_000000_000010.mp4'
            write_video(videos / name, frames, FPS)
            lines.append(f'{name} {label}\n')
            advance()
        write_text(folder / f'kinetics400_{split}_list_videos.txt', ''.join(lines))
    write_text(folder / 'label_map.txt', '\n'.join(KINETICS_CLASSES) + '\n')


def write_sthv1(
    folder: Path, seed: int, num_train: int, num_val: int, advance: Callable[[], None]
) -> None:
    """Write ``rawframes/<video>/%05d.jpg``, the lists and ``label_map.txt``."""
    video = 0
    for number, (split, count) in enumerate((('train', num_train), ('val', num_val))):
        key = [seed, _STREAMS['sthv1'], number]
        lines = []
        labels = _labels(np.random.default_rng(key), count, len(STHV1_CLASSES))
        for i, label in enumerate(labels):
            rng = np.random.default_rng(key + [i])
            frames = sthv1_clip(rng, int(label), int(rng.integers(28, 41)))
            video += 1
            target = folder / 'rawframes' / str(video)
            target.mkdir(parents=True, exist_ok=True)
            for t, frame in enumerate(frames, 1):
                path = target / f'{t:05d}.jpg'
                write_picture(path, frame, [cv2.IMWRITE_JPEG_QUALITY, 90])
            lines.append(f'{video} {len(frames)} {label}\n')
            advance()
        write_text(folder / f'sthv1_{split}_list_rawframes.txt', ''.join(lines))
    write_text(folder / 'label_map.txt', '\n'.join(STHV1_CLASSES) + '\n')
