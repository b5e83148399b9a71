# Copyright (c) The nl_plugins authors. All rights reserved.
"""Draw the picture of docs/en/idea.md: affinities above, filters below.

    python tools/visualization/idea_picture.py

The features are the colours of a drawn scene, so nothing is trained; rows, filtered
maps and responses come from nl_plugins.graph, the blocks and nl_plugins.analysis.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools' / 'dataset_converters')]

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from mini_data.cityscapes import draw_scene  # noqa: E402
from torch import Tensor  # noqa: E402

from nl_plugins.analysis import filter_response  # noqa: E402
from nl_plugins.blocks import (  # noqa: E402
    CayleyNLBlock,
    ChebyshevNLBlock,
    NLBlock,
    NSBlock,
    SNLBlock,
)
from nl_plugins.graph import (  # noqa: E402
    Affinity,
    CrissCrossAffinity,
    SoftmaxAffinity,
    SymmetricAffinity,
    chebyshev,
    laplacian,
)

plt.switch_backend('Agg')
GRID = (32, 64)


def features(image: np.ndarray) -> Tensor:
    """Standardised colours on the grid, (1, C, H, W)."""
    x = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float()
    x = F.adaptive_avg_pool2d(x, GRID)
    return (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True)


def affinities(x: Tensor) -> dict[str, Affinity]:
    """Four graphs on the same positions."""
    tokens = x.flatten(2).mT
    regions = F.avg_pool2d(x, 5, stride=1, padding=2).flatten(2).mT
    positive = torch.cat([tokens, -tokens], 2).relu()
    return {
        'softmax (NL)': SoftmaxAffinity(tokens, tokens, scale=2.0),
        'of regions (RNL)': SoftmaxAffinity(regions, regions, scale=4.0),
        'symmetric (SNL)': SymmetricAffinity(positive, positive),
        'criss-cross (CC)': CrissCrossAffinity(tokens, tokens, GRID),
    }


def filtered(affinity: Affinity, x: Tensor) -> dict[str, Tensor]:
    """One signal g, the brightness, behind three filters; maps (H, W)."""
    g = x.mean(1).flatten(1)[..., None]
    one = torch.ones(1, 1)
    maps = {
        'g': g,
        'A g (NL)': affinity @ g,
        'g - A g (NS)': laplacian(affinity, g),
        'T₂(A) g (Chebyshev)': chebyshev(affinity, g, [None, None, one]),
    }
    return {name: value[0, :, 0].view(GRID) for name, value in maps.items()}


def responses(eigenvalues: Tensor) -> dict[str, Tensor]:
    """Gain of blocks whose weights are all one, largest gain 1."""
    blocks = {
        'NL': NLBlock(4),
        'NS': NSBlock(4),
        'SNL': SNLBlock(4),
        'Chebyshev, K = 2': ChebyshevNLBlock(4, order=2),
        'Cayley': CayleyNLBlock(4),
    }
    found = {}
    for name, block in blocks.items():
        for parameter in block.parameters():
            torch.nn.init.ones_(parameter)
        gain = filter_response(block.eval(), eigenvalues)
        found[name] = gain / gain.max()
    return found


def draw(out: Path) -> None:
    """The picture, completely or not at all."""
    image, labels = draw_scene(np.random.default_rng(5), True, True)
    x = features(image)
    height, width = labels.shape
    # The query lies on the red of the bus.
    rows, columns = np.nonzero(labels == 15)
    position = int(np.median(rows)), int(np.median(columns))
    cell = position[0] * GRID[0] // height, position[1] * GRID[1] // width
    index = cell[0] * GRID[1] + cell[1]

    figure, axes = plt.subplots(2, 5, figsize=(15.5, 3.9))
    extent = (0, width, height, 0)
    picture = image[..., ::-1]
    axes[0, 0].imshow(picture, extent=extent)
    axes[0, 0].set_title('x and a query')
    graphs = affinities(x)
    for axis, (name, affinity) in zip(axes[0, 1:], graphs.items()):
        row = affinity.rows([index])[0, 0].view(GRID)
        axis.imshow(picture, extent=extent)
        shown = row.clamp(max=row.quantile(0.995))
        axis.imshow(shown, extent=extent, alpha=0.75, cmap='inferno')
        axis.set_title(f'row of A, {name}')
    for axis in axes[0]:
        axis.plot(*position[::-1], 's', color='cyan', ms=7, mfc='none', mew=2)
    for axis, (name, value) in zip(
        axes[1], filtered(graphs['symmetric (SNL)'], x).items()
    ):
        axis.imshow(value, extent=extent, cmap='gray')
        axis.set_title(name)
    for axis in axes.flat[:-1]:
        axis.axis('off')
    eigenvalues = torch.linspace(-1, 1, 201)
    curve = axes[1, 4]
    for name, gain in responses(eigenvalues).items():
        curve.plot(eigenvalues, gain, label=name)
    curve.set_title('gain over the eigenvalues of A')
    curve.legend(fontsize=7, loc='center left', bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout(pad=0.5)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f'{out.stem}.tmp{out.suffix}')
    figure.savefig(temporary, dpi=80, pil_kwargs=dict(quality=85))
    plt.close(figure)
    os.replace(temporary, out)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=ROOT / 'docs' / 'en' / '_static' / 'idea.jpg',
        help='file to write (%(default)s)',
    )
    args = parser.parse_args(argv)
    draw(args.out)
    print(f'{args.out}: {args.out.stat().st_size} bytes')


if __name__ == '__main__':
    main()
