# Copyright (c) The nl_plugins authors. All rights reserved.
"""What a decode head's non-local block costs on whole images.

Time and peak memory of one forward pass of the block, of the 3x3 convolution beside
it, of the block in its dense formulation, and of the whole network with either, each in
a process of its own, without gradients. CPU seconds hold still on a busy machine:

    python tools/analysis_tools/full_resolution.py CONFIG --sizes 512x1024 1024x2048
    python tools/analysis_tools/full_resolution.py --stock --picture memory.png

``--stock`` takes NLNet, DNLNet, DANet and CCNet of mmseg's zoo, accelerated by
``nl_plugins.accelerate``; dense is then the codebase's own computation. Peak memory is
what torch's allocator holds for the pass; for networks, with the weights and the image.
Where dense does not fit, its memory is estimated from a smaller size, and marked so.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/segmentation/snl/snl_r50-d8_4xb2-40k_cityscapes-512x1024.py'
#: mmseg's own non-local networks.
STOCK = tuple(
    f'mmseg::{folder}/{name}_r50-d8_4xb2-40k_cityscapes-512x1024.py'
    for folder, name in (
        ('nonlocal_net', 'nonlocal'),
        ('dnlnet', 'dnl'),
        ('danet', 'danet'),
        ('ccnet', 'ccnet'),
    )
)
#: Where a decode head has its block.
BLOCKS = ('nl_block', 'dnl_block', 'pam', 'cca')
PARTS = ('block', 'conv', 'dense', 'model', 'dense-model')
STRIDE = 8
GIB = 2**30


def parse_size(text: str) -> tuple[int, int]:
    """``HxW`` in pixels, multiples of the stride."""
    height, _, width = text.partition('x')
    if not (height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form HEIGHTxWIDTH')
    if int(height) % STRIDE or int(width) % STRIDE:
        raise argparse.ArgumentTypeError(f'{text} is not divisible by {STRIDE}')
    return int(height), int(width)


def dense_bytes(size: tuple[int, int], crossing: bool = False) -> int:
    """Memory of one float32 N x N matrix, N x (H + W) for criss-cross attention."""
    height, width = (side // STRIDE for side in size)
    positions = height * width
    return 4 * positions * ((height + width) if crossing else positions)


def load(name: str):
    """A config file, or a config of mmseg's zoo by its name."""
    from mmengine.config import Config
    from mmengine.hub import get_config

    return get_config(name) if '::' in name else Config.fromfile(name)


def measure(config: str | Path, part: str, size: tuple[int, int], device: str) -> dict:
    """One part at one size: ``seconds``, ``cpu_seconds`` and ``bytes``."""
    sys.path.insert(0, str(ROOT))
    import torch
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from nl_plugins import accelerate
    from nl_plugins.analysis.memory import peak_memory
    from nl_plugins.graph import force

    if part.startswith('dense'):
        accelerate.undo()
    cfg = load(str(config))
    init_default_scope('mmseg')
    whole = part.endswith('model')
    if whole:
        cfg.model.pretrained = None
    model = MODELS.build(cfg.model if whole else cfg.model.decode_head)
    model = revert_sync_batchnorm(model).eval().to(device)
    height, width = size
    if whole:
        model.test_cfg.mode = 'whole'
        x = torch.randn(1, 3, height, width, device=device)
        metas = [dict(img_shape=size, ori_shape=size)]

        def forward(x):
            return model.encode_decode(x, metas)

    else:
        x = torch.randn(
            1, model.channels, height // STRIDE, width // STRIDE, device=device
        )
        if part == 'conv':
            forward = model.convs[1] if hasattr(model, 'convs') else model.pam_out_conv
        else:
            forward = next(getattr(model, n) for n in BLOCKS if hasattr(model, n))
    formulation = 'dense' if part.startswith('dense') else 'auto'

    def run(x):
        start = time.perf_counter(), time.process_time()
        with torch.inference_mode(), force(formulation):
            forward(x)
        if device != 'cpu':
            torch.cuda.synchronize()
        return time.perf_counter() - start[0], time.process_time() - start[1]

    # Libraries load on the first call; a crop this small costs next to nothing.
    run(x[..., :64, :64] if whole else x[..., :8, :8])
    times = []
    used = peak_memory(lambda: times.append(run(x)), device)
    if whole:
        weights = (*model.parameters(), *model.buffers())
        used += sum(tensor.nbytes for tensor in (x, *weights))
    while not whole and len(times) < 3 and sum(times[0]) < 20:
        times.append(run(x))
    seconds, cpu_seconds = map(min, zip(*times))
    return dict(seconds=seconds, cpu_seconds=cpu_seconds, bytes=used)


def in_subprocess(
    args: argparse.Namespace, config: str, part: str, size: tuple[int, int]
) -> dict:
    """:func:`measure` in a fresh process, so that its peak memory is its own."""
    command = [
        sys.executable,
        __file__,
        config,
        '--one',
        part,
        '--sizes',
        f'{size[0]}x{size[1]}',
        '--device',
        args.device,
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ['killed, out of memory?'])[-1]
        raise RuntimeError(f'{part} at {size[0]}x{size[1]} failed: {last}')
    return json.loads(result.stdout.strip().splitlines()[-1])


def estimate(figures: Sequence[Mapping], row: Mapping) -> dict | None:
    """``row`` of a dense part with the memory that it would take, from the largest
    size at which the part was measured; None if it was not.

    Whole matrices grow as one matrix does, the rest with the number of pixels.
    """
    measured = {
        parse_size(other['image']): other['bytes']
        for other in figures
        if (other['config'], other['part']) == (row['config'], row['part'])
        and not other.get('estimated')
    }
    if not measured:
        return None
    known, size = max(measured), parse_size(row['image'])
    crossing = short_name(row['config']) == 'ccnet'
    matrices, rest = divmod(measured[known], dense_bytes(known, crossing))
    pixels = size[0] * size[1] / (known[0] * known[1])
    used = matrices * dense_bytes(size, crossing) + rest * pixels
    return {**row, 'bytes': round(used), 'estimated': True}


def short_name(config: str) -> str:
    """The beginning of a config's name."""
    return re.split(r'[/:]', config)[-1].split('_')[0]


def draw(figures: Sequence[Mapping], path: Path, line: float = 12) -> None:
    """Peak memory of each network by size, with and without, as bars."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    from nl_plugins.files import save_figure

    rows = [row for row in figures if row['part'].endswith('model')]
    sizes = list(dict.fromkeys(row['image'] for row in rows))
    kinds = (
        (-0.2, 'dense-model', 'tab:gray', 'without'),
        (0.2, 'model', 'tab:blue', 'with the import'),
    )
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(4.8 * len(sizes), 3.6), squeeze=False, sharey=True
    )
    for axis, size in zip(axes[0], sizes):
        here = [row for row in rows if row['image'] == size]
        names = list(dict.fromkeys(row['config'] for row in here))
        for offset, part, colour, label in kinds:
            for place, name in enumerate(names):
                found = [r for r in here if (r['config'], r['part']) == (name, part)]
                height = sum(row['bytes'] for row in found) / GIB
                guess = any(row.get('estimated') for row in found)
                hatch = dict(hatch='///', fill=False, ec=colour) if guess else {}
                axis.bar(place + offset, height, 0.4, color=colour, **hatch)
                text = f'{"≈" if guess else ""}{height:.1f}' if found else 'not\nrun'
                axis.text(place + offset, height, text, ha='center', va='bottom')
            axis.bar(0, 0, color=colour, label=label)
        axis.axhline(line, color='tab:red', lw=1, label=f'{line:g} GiB')
        axis.set_xticks(range(len(names)), [short_name(name) for name in names])
        axis.set_title(f'images of {size}')
    axes[0, 0].set_ylabel('peak memory, GiB')
    axes[0, -1].legend(fontsize=8, framealpha=1)
    axes[0, 0].margins(y=0.12)
    figure.tight_layout()
    save_figure(path, figure, dpi=120)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='*', help='files, or names like mmseg::...')
    parser.add_argument('--stock', action='store_true', help="mmseg's own networks")
    parser.add_argument(
        '--sizes',
        type=parse_size,
        nargs='+',
        default=[(512, 1024), (1024, 2048), (2048, 4096)],
        help='of the image, HEIGHTxWIDTH',
    )
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS[:3])
    parser.add_argument(
        '--dense-limit',
        type=float,
        default=8,
        help='GiB that the dense formulation may take; it holds about three N x N '
        'matrices (%(default)s)',
    )
    parser.add_argument('--device', default='cpu', help='(%(default)s)')
    parser.add_argument('--json', type=Path, help='also write the figures here')
    parser.add_argument('--picture', type=Path, help='draw the memory of networks')
    parser.add_argument('--one', choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.config = [*args.config, *(STOCK if args.stock else ())] or [str(CONFIG)]
    for config in args.config:
        if '::' not in config and not Path(config).is_file():
            parser.error(f'there is no config {config}')
    if args.picture and not {'model', 'dense-model'} & set(args.parts):
        parser.error('--picture draws networks: add --parts model dense-model')
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.one:
        row = measure(args.config[0], args.one, args.sizes[0], args.device)
        print(json.dumps(row))
        return 0
    sys.path.insert(0, str(ROOT))
    from nl_plugins.files import write_text

    figures = []
    print(
        f'{"config":>9} {"image":>10} {"part":>11} {"seconds":>9} {"cpu s":>9} '
        f'{"peak MiB":>9}'
    )
    for config in args.config:
        crossing = short_name(config) == 'ccnet'
        for size in args.sizes:
            for part in args.parts:
                row = dict(config=config, image=f'{size[0]}x{size[1]}', part=part)
                lead = f'{short_name(config):>9} {row["image"]:>10} {part:>11}'
                matrix = dense_bytes(size, crossing)
                if part.startswith('dense') and 3 * matrix > args.dense_limit * GIB:
                    row = estimate(figures, row)
                    if row is None:
                        print(f'{lead} one N x N matrix is {matrix / GIB:.0f} GiB')
                        continue
                    print(f'{lead} {row["bytes"] / 2**20:29.0f} estimated', flush=True)
                else:
                    row.update(in_subprocess(args, config, part, size))
                    print(
                        f'{lead} {row["seconds"]:9.2f} {row["cpu_seconds"]:9.2f} '
                        f'{row["bytes"] / 2**20:9.0f}',
                        flush=True,
                    )
                figures.append(row)
                if args.json:
                    write_text(args.json, json.dumps(figures, indent=2))
    if args.picture:
        draw(figures, args.picture)
    return 0


if __name__ == '__main__':
    sys.exit(main())
