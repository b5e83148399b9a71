# Copyright (c) The nl_plugins authors. All rights reserved.
"""Draw the picture of docs/en/idea.md: affinities above, filters below.

    python tools/visualization/idea_picture.py

The features are the colours of the street of demo/, so nothing is trained; rows,
filtered maps and curves come from nl_plugins.graph.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from nl_plugins.analysis.picture import overlay, weight_limit  # noqa: E402
from nl_plugins.analysis.spectrum import _Diagonal  # noqa: E402
from nl_plugins.files import save_figure  # noqa: E402
from nl_plugins.graph import (  # noqa: E402
    Affinity,
    CrissCrossAffinity,
    SoftmaxAffinity,
    SymmetricAffinity,
    chebyshev,
    laplacian,
)

plt.switch_backend('Agg')
GRID = (36, 48)
QUERY = (0.56, 0.2)  # on the green car
ONE = torch.ones(1, 1)
#: What each filter makes of one signal g, its weights all one.
FILTERS: dict[str, Callable[[Affinity, Tensor], Tensor]] = {
    'A g (NL)': lambda a, g: a @ g,
    'g - A g (NS)': laplacian,
    'g + A g (SNL)': lambda a, g: g + a @ g,
    'T₂(A) g (Chebyshev)': lambda a, g: chebyshev(a, g, [None, None, ONE.to(g)]),
    'g + (g + L L g) (Cayley)': lambda a, g: 2 * g + laplacian(a, laplacian(a, g)),
}


def features(image: np.ndarray) -> Tensor:
    """Standardised colours on the grid, (1, C, H, W)."""
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
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


def curves(eigenvalues: Tensor) -> dict[str, Tensor]:
    """p(lambda): each filter on a graph whose eigenvectors are its nodes."""
    graph = _Diagonal(eigenvalues, 1)
    nodes = torch.ones(1, len(eigenvalues), 1).to(eigenvalues)
    return {name: apply(graph, nodes)[0, :, 0] for name, apply in FILTERS.items()}


def draw(out: Path) -> None:
    """The picture, completely or not at all."""
    image = cv2.imread(str(ROOT / 'demo' / 'street.jpg'))[..., ::-1]
    x = features(image)
    height, width = image.shape[:2]
    index = int(QUERY[0] * GRID[0]) * GRID[1] + int(QUERY[1] * GRID[1])

    figure, axes = plt.subplots(2, 5, figsize=(15.5, 5.2), layout='constrained')
    extent = (0, width, height, 0)
    axes[0, 0].imshow(image, extent=extent)
    axes[0, 0].set_title('x and a query')
    graphs = affinities(x)
    for axis, (name, affinity) in zip(axes[0, 1:], graphs.items()):
        row = affinity.rows([index])[0, 0].view(GRID).numpy()
        size = (width, height)
        row = cv2.resize(row / weight_limit(row), size, interpolation=cv2.INTER_NEAREST)
        axis.imshow(overlay(image, row), extent=extent)
        axis.set_title(f'row of A, {name}')
    for axis in axes[0]:
        for colour, thickness in (('black', 5), ('white', 2)):
            axis.plot(
                QUERY[1] * width,
                QUERY[0] * height,
                'o',
                color=colour,
                ms=9,
                mfc='none',
                mew=thickness,
            )
    g = x.mean(1).flatten(1)[..., None]
    names = list(FILTERS)
    maps = {'g': g}
    for name in (names[0], names[1], names[3]):
        maps[name] = FILTERS[name](graphs['symmetric (SNL)'], g)
    for axis, (name, value) in zip(axes[1], maps.items()):
        axis.imshow(value[0, :, 0].view(GRID), extent=extent, cmap='gray')
        axis.set_title(name)
    for axis in axes.flat[:-1]:
        axis.axis('off')
    eigenvalues = torch.linspace(-1, 1, 201)
    curve = axes[1, 4]
    for name, value in curves(eigenvalues).items():
        curve.plot(eigenvalues, value, label=name)
    curve.axhline(0, color='black', linewidth=0.6)
    curve.set_title('p(λ) of five filters')
    curve.set_xlabel('eigenvalue λ of A')
    curve.set_ylabel('p(λ)')
    curve.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.0, 0.5))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_figure(out, figure, dpi=80, pil_kwargs=dict(quality=88))


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
