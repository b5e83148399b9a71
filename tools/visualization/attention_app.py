# Copyright (c) The nl_plugins authors. All rights reserved.
"""Write one HTML file in which a pointer shows where every non-local block looks.

    python tools/visualization/attention_app.py CONFIG CHECKPOINT IMAGE|VIDEO \\
        --out work_dirs/attention.html
    python tools/visualization/attention_app.py --demo

It needs no server and no network. Over the picture, or over all frames of the first
clip, lies the row of the affinity of the position below the pointer; beside it the
block's spectrum and the gain of its filter. Rows are computed beforehand, on grids so
coarse that the file stays below 5 MB.
"""

import argparse
import base64
import json
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from mmengine.config import DictAction  # noqa: E402
from rich.progress import track  # noqa: E402
from vis_attention import add_demo, check_demo, observe  # noqa: E402

from nl_plugins.analysis import (  # noqa: E402
    AttentionRecord,
    filter_response,
    graph_spectrum,
)
from nl_plugins.analysis.hook import frames_of  # noqa: E402
from nl_plugins.analysis.picture import network_frames, readable  # noqa: E402
from nl_plugins.command import add_debug, run  # noqa: E402
from nl_plugins.files import write_text  # noqa: E402

MAX_BYTES = 5_000_000
MAX_FRAMES = 32
# Largest grids of queries and of keys: frames, rows, columns.
QUERIES, KEYS = (8, 24, 32), (32, 24, 32)
LEVELS = 127  # of a weight, on either side of 0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?', help='config file of the model')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file of the model')
    parser.add_argument('input', nargs='?', help='an image or a video')
    add_demo(parser)
    parser.add_argument(
        '--layer',
        '--layers',
        nargs='+',
        help='names of blocks, or of modules that hold blocks; default: all blocks',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/attention.html'),
        help='file to write (%(default)s)',
    )
    parser.add_argument('--device', default='cpu', help='(%(default)s)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    add_debug(parser)
    args = parser.parse_args(argv)
    check_demo(parser, args)
    return args


def grids(
    grid: Sequence[int], keys: Sequence[int], budget: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Coarse grids of queries and keys whose product is at most ``budget`` bytes."""
    queries = tuple(map(min, grid, QUERIES))
    keys = tuple(map(min, keys, KEYS))
    while prod(queries) * prod(keys) > budget:
        queries, keys = (
            tuple(max(1, int(size * 0.9)) for size in sizes)
            for sizes in (queries, keys)
        )
    return queries, keys


def encode(array: np.ndarray) -> str:
    """Base64 of the bytes."""
    return base64.b64encode(array.tobytes()).decode('ascii')


def rows_of(
    record: AttentionRecord, num_frames: int, per_frame: bool, budget: int, title: str
) -> dict:
    """Rows of queries on a coarse grid, as means over coarse keys.

    A row is stored as its largest magnitude and shares of it in 1/127.
    """
    frames = num_frames if per_frame else 1
    grid = record.grid if len(record.grid) == 3 else (frames, *record.grid)
    whole = (1, *grid[1:]) if per_frame else grid
    queries, keys = grids(grid, whole, budget)
    weights = np.empty((prod(queries), prod(keys)), np.float32)
    cells = list(np.ndindex(queries))
    for index, cell in enumerate(track(cells, title, transient=True)):
        # The middle of the coarse cell.
        place = [int((c + 0.5) * g / q) for c, g, q in zip(cell, grid, queries)]
        if len(record.grid) == 3:
            row = record.row(place)
        else:
            row = record.row(place[1:], sample=place[0])[None]
        pooled = F.adaptive_avg_pool3d(row.float()[None], keys)
        weights[index] = pooled.flatten().cpu().numpy()
    scales = np.abs(weights).max(1)
    levels = weights / np.where(scales > 0, scales, 1)[:, None] * LEVELS
    return dict(
        grid=list(grid),
        queries=list(queries),
        keys=list(keys),
        per_frame=per_frame,
        signed=bool((weights < 0).any()),
        scales=[float(f'{scale:.4g}') for scale in scales],
        rows=encode(levels.round().astype(np.int8)),
    )


def spectrum_of(block: torch.nn.Module, record: AttentionRecord) -> dict:
    """Histogram of the eigenvalues (of a square affinity) and gain of the filter."""
    found = dict(shares=None, edges=None, exact=True)
    limits = (-1.0, 1.0)
    _, queries, keys = record.affinity.shape
    if queries == keys:
        spectrum = graph_spectrum(record.affinity)
        shares, edges = spectrum.histogram()
        limits = edges[0].item(), edges[-1].item()
        found = dict(
            shares=shares.clamp_min(0).tolist(),
            edges=edges.tolist(),
            exact=spectrum.exact,
        )
    lambdas = torch.linspace(*limits, 101)
    gains = filter_response(block, lambdas)
    return dict(found, lambdas=lambdas.tolist(), gains=gains.cpu().tolist())


def jpeg(picture: np.ndarray) -> str:
    """Base64 of a JPEG, at least 224 pixels high."""
    done, data = cv2.imencode(
        '.jpg', readable(picture)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85]
    )
    if not done:
        raise OSError('a frame could not be encoded as JPEG')
    return encode(data)


@torch.no_grad()
def content(args: argparse.Namespace) -> dict:
    """What the page shows."""
    cfg, model, records, x = observe(args)
    everything, rank = network_frames(model, x), x.ndim
    frames = everything
    for record in records.values():
        by_frame = (
            rank == 4 and len(record.grid) == 2 and cfg.default_scope == 'mmaction'
        )
        if not by_frame:  # one picture, or one clip of several
            frames = min(frames, frames_of(record, everything, rank), key=len)
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).round()
    pictures = [
        dict(index=int(index), jpeg=jpeg(frames[int(index)])) for index in chosen
    ]
    used = sum(len(picture['jpeg']) for picture in pictures)
    budget = int((0.9 * MAX_BYTES - used) * 0.75 / len(records))
    blocks = []
    for layer, record in records.items():
        block = model.get_submodule(layer)
        per_frame = len(frames) > 1 and len(record.grid) == 2
        rows = rows_of(record, len(frames), per_frame, budget, layer)
        spectrum = spectrum_of(block, record)
        kind = type(block).__name__
        blocks.append(dict(name=layer, kind=kind, spectrum=spectrum, **rows))
    title = (
        f'{Path(args.input).name}: where the blocks of {Path(args.config).stem} look'
    )
    return dict(title=title, total=len(frames), frames=pictures, blocks=blocks)


def page(data: dict) -> str:
    """The whole HTML file."""
    template = Path(__file__).with_suffix('.html').read_text(encoding='utf-8')
    # No string of the data can end its script element.
    text = json.dumps(data, separators=(',', ':')).replace('<', '\\u003c')
    return template.replace('>DATA<', f'>{text}<', 1)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    text = page(content(args))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, text)
    print(f'{args.out}: {args.out.stat().st_size / 1e6:.1f} MB; open it in a browser')
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
