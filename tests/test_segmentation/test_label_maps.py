# Copyright (c) The nl_plugins authors. All rights reserved.
"""Label maps that would be read as something else are named before the start."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmseg')

from PIL import Image  # noqa: E402

import nl_plugins  # noqa: E402, F401
from nl_plugins.segmentation.hooks import check_pair  # noqa: E402

LABEL = np.arange(1024, dtype=np.uint8).reshape(32, 32) % 11
NOISE = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)


def pair(folder: Path, label, name: str = 'map.png', image=NOISE, **options) -> dict:
    Image.fromarray(image).save(folder / 'image.jpg', quality=95)
    picture = label if isinstance(label, Image.Image) else Image.fromarray(label)
    picture.save(folder / name, **options)
    return dict(img_path=str(folder / 'image.jpg'), seg_map_path=str(folder / name))


def channels(mode: str) -> Image.Image:
    return Image.fromarray(LABEL).convert(mode)


def palette() -> Image.Image:
    picture = Image.fromarray(LABEL, 'P')
    picture.putpalette([*range(256)] * 3)
    return picture


TAKEN = {
    'grey': (LABEL, 'map.png'),
    'palette': (palette(), 'map.png'),
    'palette with transparency': (palette(), 'map.png', dict(transparency=0)),
    'two colours': (Image.fromarray(LABEL > 5), 'map.png'),
    '16 bits': (LABEL.astype(np.uint16), 'map.png'),
    '32 bits': (LABEL.astype(np.int32), 'map.tif'),
    'gif': (palette(), 'map.gif'),
    'bmp': (LABEL, 'map.bmp'),
}


@pytest.mark.parametrize('case', TAKEN.values(), ids=TAKEN)
def test_taken(tmp_path, case):
    label, name, options = (*case, {})[:3]
    check_pair(pair(tmp_path, label, name, **options))


REFUSED = {
    'two channels': (channels('LA'), 'map.png', 'channels L, A'),
    'three channels': (channels('RGB'), 'map.png', 'channels R, G, B'),
    'four channels': (channels('RGBA'), 'map.png', 'channels R, G, B, A'),
    '256': (LABEL.astype(np.uint16) + 246, 'map.png', 'values from 246 to 256'),
    '1000': (LABEL.astype(np.int32) * 100, 'map.tif', 'values from 0 to 1000'),
    'negative': (LABEL.astype(np.int32) - 1, 'map.tif', 'values from -1 to 9'),
    'fractions': (LABEL / np.float32(3), 'map.tif', r'\(F\)'),
}


@pytest.mark.parametrize('label, name, message', REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path, label, name, message):
    with pytest.raises(ValueError, match=f'the label map .*{name} h.*{message}') as e:
        check_pair(pair(tmp_path, label, name))
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('name', ['map.png', 'map.tif', 'map.bmp', 'map.gif'])
@pytest.mark.parametrize('share', [0, 0.02, 0.3, 0.6, 0.9])
def test_truncated_label_maps(tmp_path, name, share):
    label = Image.fromarray(NOISE[..., 0] % 11)
    if name.endswith('gif'):
        label = label.convert('P')
    info = pair(tmp_path, label, name)
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f'the label map {path} is truncated'):
        check_pair(info)


@pytest.mark.parametrize('share', [0, 0.02, 0.3, 0.6, 0.97])
def test_truncated_images(tmp_path, share):
    info = pair(tmp_path, LABEL)
    path = tmp_path / 'image.jpg'
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f'the image {path} is truncated'):
        check_pair(info)


@pytest.mark.parametrize(
    'tail', [b'\0' * 40, b'a comment behind the end of the picture']
)
def test_whole_files_with_a_tail(tmp_path, tail):
    info = pair(tmp_path, LABEL)
    for path in info.values():
        with open(path, 'ab') as file:
            file.write(tail)
    check_pair(info)
