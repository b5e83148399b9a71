# Copyright (c) The nl_plugins authors. All rights reserved.
"""Frame indices of every protocol against its formula, for 3 to 400 frames."""

import math

import numpy as np
import pytest

pytest.importorskip('mmaction')

from mmaction.registry import TRANSFORMS  # noqa: E402

import nl_plugins  # noqa: E402, F401

NUM_FRAMES = range(3, 401)
SEGMENTS = (8, 16)


def indices(cfg, num_frames, seed=0, start_index=1):
    """Frame indices counted from 0, one row a clip, and all results."""
    np.random.seed(seed)
    transform = TRANSFORMS.build(cfg)
    results = transform(dict(total_frames=num_frames, start_index=start_index))
    return results['frame_inds'] - start_index, results


def check(cfg, expected):
    for n in NUM_FRAMES:
        np.random.seed(n)
        wanted = np.asarray(expected(n)).reshape(-1)
        found, results = indices(cfg, n, seed=n)
        assert found.tolist() == wanted.tolist(), f'{n} frames'
        assert len(found) % (results['clip_len'] * results['num_clips']) == 0


@pytest.mark.parametrize('T', SEGMENTS)
def test_uniform_training(T):
    def expected(n):
        d = n // T
        if d == 0:
            return [0] * T
        shift = np.random.randint(d, size=T)
        return [i * d + shift[i] for i in range(T)]

    check(dict(type='SegmentSampleFrames', num_clips=T), expected)


@pytest.mark.parametrize('T', SEGMENTS)
def test_uniform_validation(T):
    def expected(n):
        return [int(n / T * (i + 0.5)) for i in range(T)] if n > T else [0] * T

    check(dict(type='SegmentSampleFrames', num_clips=T, test_mode=True), expected)


@pytest.mark.parametrize('T', SEGMENTS)
@pytest.mark.parametrize('twice', [False, True])
def test_uniform_test(T, twice):
    def expected(n):
        centres = [int(n / T * (i + 0.5)) for i in range(T)]
        return centres + [int(n / T * i) for i in range(T)] * twice

    cfg = dict(
        type='SampleFrames',
        clip_len=1,
        num_clips=T,
        twice_sample=twice,
        test_mode=True,
    )
    check(cfg, expected)


@pytest.mark.parametrize('T', SEGMENTS)
def test_dense_training(T):
    def expected(n):
        p = max(1, n - 63)
        start = 0 if p == 1 else np.random.randint(0, p - 1)
        return [(start + i * (64 // T)) % n for i in range(T)]

    check(dict(type='DenseSampleFrames', clip_len=1, num_clips=T), expected)


@pytest.mark.parametrize('T', SEGMENTS)
def test_dense_test_with_ten_clips(T):
    def expected(n):
        starts = np.linspace(0, max(1, n - 63) - 1, 10, dtype=int)
        return [(s + i * (64 // T)) % n for s in starts for i in range(T)]

    cfg = dict(type='DenseSampleFrames', clip_len=1, num_clips=T, test_mode=True)
    check(cfg, expected)


# Frames and their distance in the recipes of the non-local networks.
CLIPS = [(32, 2), (8, 8), (32, 4), (128, 1)]


@pytest.mark.parametrize('D, step', CLIPS)
def test_training_clips_of_the_original_non_local_networks(D, step):
    def expected(n):
        last = n - D * step
        start = np.random.randint(last + 1) if last >= 0 else 0
        return [(start + step * k) % n for k in range(D)]

    check(dict(type='SampleFrames', clip_len=D, frame_interval=step), expected)


@pytest.mark.parametrize('D, step', CLIPS)
def test_ten_clips_of_the_original_non_local_networks(D, step):
    def expected(n):
        return [(int(n / 10 * j) + step * k) % n for j in range(10) for k in range(D)]

    check(dict(type='EvenStartSampleFrames', clip_len=D, frame_interval=step), expected)


def looped(n, start, D):
    """The window from ``start``, cut at the end of the video and repeated."""
    window = list(range(start, min(n, start + D)))
    return [window[k % len(window)] for k in range(D)]


@pytest.mark.parametrize('D', [16, 64])
def test_consecutive_windows(D):
    def expected(n):
        # 1-based starts 1, 1 + D, ... before frame n.
        return [looped(n, j - 1, D) for j in range(1, n, D)]

    check(dict(type='WindowSampleFrames', clip_len=D, mode='consecutive'), expected)


@pytest.mark.parametrize('D', [16, 64])
def test_spaced_windows(D):
    def expected(n):
        step = max(1, math.ceil((n - 1 - D) / (3 - 1)))
        return [looped(n, j - 1, D) for j in range(1, n, step)]

    check(dict(type='WindowSampleFrames', clip_len=D, mode='spaced'), expected)


def test_random_windows_cover_the_range():
    cfg, D = dict(type='WindowSampleFrames', clip_len=16), 16
    for n in (3, 16, 17, 18, 20, 40):
        starts = set()
        for seed in range(300):
            found, results = indices(cfg, n, seed)
            assert found.tolist() == looped(n, found[0], D)
            assert results['num_clips'] == 1
            starts.add(int(found[0]))
        assert starts == set(range(max(0, n - D - 1) + 1))


def test_one_frame_is_a_window():
    cfg = dict(type='WindowSampleFrames', clip_len=4, mode='consecutive')
    assert indices(cfg, 1)[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='WindowSampleFrames', mode='all'), "mode must be one of .* 'all'"),
        (
            dict(type='WindowSampleFrames', clip_len=0),
            'clip_len must be a positive integer',
        ),
        (dict(type='SegmentSampleFrames', num_clips=0), 'positive integer, but got 0'),
    ],
)
def test_wrong_options(cfg, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build(cfg)
