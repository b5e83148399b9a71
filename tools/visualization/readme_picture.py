# Copyright (c) The nl_plugins authors. All rights reserved.
"""Draw the README's picture: where a trained block looks in a photograph.

    python tools/visualization/readme_picture.py

One point of the street of demo/, its strongest edges in the graph that the network's
block has learnt, its whole row of the affinity, and what the network makes of all rows.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cv2  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from compare_segmentation import legend, paint  # noqa: E402
from matplotlib.colors import LinearSegmentedColormap  # noqa: E402
from vis_attention import DEMO  # noqa: E402

from nl_plugins.analysis import query_map, record_attention  # noqa: E402
from nl_plugins.analysis.picture import overlay, weight_limit  # noqa: E402
from nl_plugins.files import save_figure  # noqa: E402

plt.switch_backend('Agg')
NUM_EDGES = 40
ROOT = Path(__file__).resolve().parents[2]


def draw(args: argparse.Namespace) -> None:
    """The picture, completely or not at all."""
    from mmseg.apis import inference_model, init_model

    model = init_model(args.config, args.checkpoint, 'cpu')
    with record_attention(model) as records, torch.no_grad():
        result = inference_model(model, args.input)
    record = list(records.values())[-1]
    image = cv2.imread(args.input)[..., ::-1]
    labels = result.pred_sem_seg.data[0].numpy()
    height, width = labels.shape
    y, x = (int(p * size) for p, size in zip(args.position, (height, width)))
    heat = query_map(record, (y, x), (height, width)).numpy()
    limit = weight_limit(heat)
    cell = np.array([height, width]) / record.grid
    row = record.row((np.array([y, x]) // cell).astype(int).tolist()).numpy()
    strongest = np.argsort(row, axis=None)[::-1][:NUM_EDGES]
    ends = (np.stack(np.unravel_index(strongest, row.shape), 1) + 0.5) * cell

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.4), layout='constrained')
    titles = (
        f'a point and its {NUM_EDGES} strongest edges',
        'its row of A',
        'the classes that the network finds',
    )
    palette = model.dataset_meta['palette']
    pictures = (image, overlay(image, heat / limit), paint(labels, palette))
    for axis, title, picture in zip(axes, titles, pictures):
        axis.imshow(picture, extent=(0, width, height, 0))
        axis.set_title(title, fontsize=12)
        axis.axis('off')
    for (end_y, end_x), weight in zip(ends, row.reshape(-1)[strongest] / row.max()):
        look = dict(color='#ffd000', alpha=float(weight))
        axes[0].plot([x, end_x], [y, end_y], lw=1.2, **look)
        axes[0].plot(end_x, end_y, 'o', ms=4, **look)
    for axis in axes[:2]:
        for colour, thickness in (('black', 5), ('white', 2)):
            axis.plot(x, y, 'o', color=colour, ms=10, mfc='none', mew=thickness)
    # The colours of the overlay over mid-grey, as in the bar of every other picture.
    ramp = overlay(np.full((1, 256, 3), 128, np.uint8), np.linspace(0, 1, 256)[None])
    scale = plt.cm.ScalarMappable(
        plt.Normalize(0, limit), LinearSegmentedColormap.from_list('w', ramp[0] / 255)
    )
    figure.colorbar(scale, ax=axes[1], fraction=0.04, pad=0.02, label='weight')
    axes[2].legend(
        handles=legend(model.dataset_meta['classes'], palette, np.unique(labels)),
        loc='center left',
        bbox_to_anchor=(1.0, 0.5),
        fontsize=9,
        frameon=False,
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_figure(args.out, figure, dpi=90, pil_kwargs=dict(quality=88))


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in DEMO.items():
        parser.add_argument(f'--{name}', default=default, help='that of demo/')
    parser.add_argument(
        '--position',
        type=float,
        nargs=2,
        default=(0.85, 0.5),
        metavar=('Y', 'X'),
        help='of the point, in fractions of the size (%(default)s)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=ROOT / 'docs' / 'en' / '_static' / 'non_local.jpg',
        help='file to write (%(default)s)',
    )
    args = parser.parse_args(argv)
    draw(args)
    print(f'{args.out}: {args.out.stat().st_size} bytes')


if __name__ == '__main__':
    main()
