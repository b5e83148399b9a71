# Copyright (c) The nl_plugins authors. All rights reserved.
"""Draw input, truth and the predictions of several models side by side.

One row for each picture, one column for each model:

    python tools/visualization/compare_segmentation.py OUT.png \\
        --models FCN=CONFIG:CHECKPOINT SNL=CONFIG:CHECKPOINT --indices 10 120

The pictures are those of the test set of the first config.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nl_plugins.command import add_debug, run  # noqa: E402

TITLE_HEIGHT = 22
GAP = 4


class Model(NamedTuple):
    """A column of the picture."""

    title: str
    config: str
    checkpoint: str


def parse_model(text: str) -> Model:
    """``TITLE=CONFIG:CHECKPOINT``."""
    title, _, files = text.partition('=')
    config, _, checkpoint = files.partition(':')
    if not (title and config and checkpoint):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not of the form TITLE=CONFIG:CHECKPOINT'
        )
    for path in (config, checkpoint):
        if not Path(path).is_file():
            raise argparse.ArgumentTypeError(f'{path} does not exist')
    return Model(title, config, checkpoint)


def paint(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Colours (H, W, 3), RGB, of class indices (H, W); black where ignored."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    return colours[labels]


def legend(
    classes: Sequence[str], palette: Sequence[Sequence[int]], present: Sequence[int]
) -> list:
    """Handles of a matplotlib legend for the classes that are ``present``."""
    from matplotlib.patches import Patch

    return [
        Patch(color=np.array(palette[index]) / 255, label=classes[index])
        for index in present
        if index < len(classes)
    ]


def legend_strip(
    classes: Sequence[str], palette: Sequence[Sequence[int]], width: int
) -> np.ndarray:
    """Colour and name of each class, and black as ignored, in as many lines as needed.

    Returns:
        ndarray: The strip (H, width, 3), RGB.
    """
    entries = [*zip(classes, palette), ('ignored', (0, 0, 0))]
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    lines, x = [[]], 4
    for name, colour in entries:
        needed = 20 + cv2.getTextSize(name, font, size, 1)[0][0] + 14
        if lines[-1] and x + needed > width:
            lines.append([])
            x = 4
        lines[-1].append((x, name, colour))
        x += needed
    strip = np.full((TITLE_HEIGHT * len(lines), width, 3), 255, dtype=np.uint8)
    for number, line in enumerate(lines):
        top = number * TITLE_HEIGHT
        for x, name, colour in line:
            strip[top + 5 : top + 17, x : x + 14] = colour
            place = (x + 18, top + 15)
            cv2.putText(strip, name, place, font, size, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def layout(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], width: int
) -> np.ndarray:
    """Stack pictures of one size to a titled grid.

    Args:
        rows (Sequence[Sequence[ndarray]]): Pictures (H, W, 3), RGB.
        titles (Sequence[str]): One for each column.
        width (int): Width of one picture in the grid.

    Returns:
        ndarray: The grid (H', W', 3), RGB.
    """
    strips = []
    for row in rows:
        height = round(row[0].shape[0] * width / row[0].shape[1])
        # Label maps keep their few colours, photographs are averaged.
        cells = [
            cv2.resize(
                cell,
                (width, height),
                interpolation=cv2.INTER_NEAREST if i else cv2.INTER_AREA,
            )
            for i, cell in enumerate(row)
        ]
        gap = np.full((height, GAP, 3), 255, dtype=np.uint8)
        strip = [part for cell in cells for part in (cell, gap)][:-1]
        strips.append(np.concatenate(strip, axis=1))
    total = strips[0].shape[1]
    head = np.full((TITLE_HEIGHT, total, 3), 255, dtype=np.uint8)
    for column, title in enumerate(titles):
        place = (column * (width + GAP) + 2, TITLE_HEIGHT - 7)
        cv2.putText(
            head, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 0, 1, cv2.LINE_AA
        )
    gap = np.full((GAP, total, 3), 255, dtype=np.uint8)
    parts = [part for strip in strips for part in (strip, gap)][:-1]
    return np.concatenate([head, *parts], axis=0)


def predict(model: Model, paths: Sequence[str], device: str) -> list[np.ndarray]:
    """Class indices (H, W) of each picture."""
    from mmseg.apis import inference_model, init_model

    segmentor = init_model(model.config, model.checkpoint, device=device)
    return [
        inference_model(segmentor, path).pred_sem_seg.data[0].cpu().numpy()
        for path in paths
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, help='the picture to write (.png, .jpg)')
    parser.add_argument('--models', type=parse_model, nargs='+', required=True)
    parser.add_argument(
        '--indices', type=int, nargs='+', default=[0], help='rows of the test set'
    )
    parser.add_argument(
        '--width', type=int, default=240, help='of one picture (%(default)s)'
    )
    parser.add_argument('--device', default='cpu', help='(%(default)s)')
    add_debug(parser)
    args = parser.parse_args(argv)

    import nl_plugins  # noqa: F401, I001 - repairs come before mmseg
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS, TRANSFORMS

    from nl_plugins.files import write_picture
    from nl_plugins.segmentation.hooks import check_pair

    config = Config.fromfile(args.models[0].config)
    init_default_scope('mmseg')
    dataset = DATASETS.build(config.test_dataloader.dataset)
    wrong = [index for index in args.indices if not 0 <= index < len(dataset)]
    if wrong:
        print(
            f'error: --indices {wrong[0]} is outside the test set, which has the '
            f'pictures 0..{len(dataset) - 1}',
            file=sys.stderr,
        )
        return 1
    load = [
        TRANSFORMS.build(dict(type='LoadImageFromFile')),
        TRANSFORMS.build(dict(type='LoadAnnotations')),
    ]
    palette = dataset.metainfo['palette']
    rows, paths = [], []
    for index in args.indices:
        sample = dataset.get_data_info(index)
        check_pair(sample)
        for transform in load:
            sample = transform(sample)
        paths.append(sample['img_path'])
        rows.append(
            [
                np.ascontiguousarray(sample['img'][..., ::-1]),
                paint(sample['gt_seg_map'], palette),
            ]
        )
    for model in args.models:
        for row, labels in zip(rows, predict(model, paths, args.device)):
            row.append(paint(labels, palette))
    grid = layout(
        rows, ['input', 'truth', *(model.title for model in args.models)], args.width
    )
    names = legend_strip(dataset.metainfo['classes'], palette, grid.shape[1])
    grid = np.concatenate([grid, names])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_picture(args.out, grid)
    print(f'{args.out}: {grid.shape[1]} x {grid.shape[0]}')
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
