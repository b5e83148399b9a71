# Copyright (c) The nl_plugins authors. All rights reserved.
"""Draw the README's picture from the segmentation network of the quickstart.

    bash tools/quickstart.sh --task segmentation
    python tools/visualization/readme_picture.py

One pixel of a scene, its strongest edges in the graph that the network's block has
learnt, and the whole row of the affinity.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from quickstart_pictures import (  # noqa: E402
    ROOT,
    last_record,
    load,
    query_map,
    query_position,
    rgb,
)

CONFIG = 'segmentation/snl/snl_r18-d8_1xb4-400_mini-cityscapes-128x256.py'
NUM_EDGES = 40


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    run = ROOT / 'work_dirs' / 'quickstart' / Path(CONFIG).stem
    parser.add_argument('--config', default=str(ROOT / 'configs' / CONFIG))
    parser.add_argument('--checkpoint', default=None, help=f'newest in {run}')
    parser.add_argument('--index', type=int, default=2, help='test scene (2)')
    parser.add_argument(
        '--out', type=Path, default=ROOT / 'docs' / 'en' / '_static' / 'non_local.jpg'
    )
    args = parser.parse_args()
    checkpoint = args.checkpoint or (run / 'last_checkpoint').read_text().strip()
    _, dataset, model = load(args.config, checkpoint)
    item = dataset[args.index]
    names = list(dataset.metainfo['classes'])
    labels = item['data_samples'].gt_sem_seg.data[0].numpy()
    position = query_position(labels, names)
    _, record = last_record(model, item)
    height, width = labels.shape
    cell = np.array([height, width]) / record.grid
    row = record.row((np.array(position) // cell).astype(int).tolist()).cpu().numpy()
    heat = query_map(record, position, labels.shape).cpu().numpy()
    strongest = np.argsort(row, axis=None)[::-1][:NUM_EDGES]
    ends = (np.stack(np.unravel_index(strongest, row.shape), 1) + 0.5) * cell
    weights = row.reshape(-1)[strongest] / row.max()

    figure, axes = plt.subplots(1, 3, figsize=(13.5, 2.75))
    titles = ('one position of x', f'its {NUM_EDGES} strongest edges', 'its row of A')
    for axis, title in zip(axes, titles):
        axis.imshow(rgb(item), extent=(0, width, height, 0))
        axis.axis('off')
        axis.set_title(title, fontsize=11)
    for (y, x), weight in zip(ends, weights):
        axes[1].plot(
            [position[1], x],
            [position[0], y],
            color='gold',
            lw=1.2,
            alpha=float(weight),
        )
        axes[1].plot(x, y, 'o', color='gold', ms=3, alpha=float(weight))
    axes[2].imshow(heat, extent=(0, width, height, 0), alpha=0.7, cmap='inferno')
    for axis in axes:
        axis.plot(position[1], position[0], 's', color='red', ms=7, mfc='none', mew=2)
    figure.tight_layout(pad=0.4)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=90, pil_kwargs=dict(quality=85))
    print(f'{args.out}: {args.out.stat().st_size} bytes')


if __name__ == '__main__':
    main()
