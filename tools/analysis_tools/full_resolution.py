# Copyright (c) The nl_plugins authors. All rights reserved.
"""What a decode head's non-local block costs on whole images.

Time and peak memory of one forward pass of the block, of the 3x3 convolution beside
it, of the block in its dense formulation, and of the whole network, each in a process
of its own, without gradients. CPU seconds hold still on a busy machine:

    python tools/analysis_tools/full_resolution.py CONFIG --sizes 512x1024 1024x2048

Peak memory is what the pass adds to the process; for ``model`` it is the whole
process, with the weights and the libraries.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/segmentation/snl/snl_r50-d8_4xb2-40k_cityscapes-512x1024.py'
PARTS = ('block', 'conv', 'dense', 'model')
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


def dense_bytes(size: tuple[int, int]) -> int:
    """Memory of one float32 N x N matrix."""
    positions = size[0] * size[1] // STRIDE**2
    return 4 * positions**2


def peak_bytes(device: str, reset: bool = False) -> int:
    """Highest memory of this process so far, or since the last reset where it can.

    Args:
        device (str): 'cpu' or a CUDA device.
        reset (bool): Start anew from the memory held now, on Linux and CUDA.
    """
    import torch

    if device != 'cpu':
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == 'linux':
        if reset:
            Path('/proc/self/clear_refs').write_text('5')
        status = Path('/proc/self/status').read_text()
        return int(re.search(r'VmHWM:\s+(\d+) kB', status)[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(config: Path, part: str, size: tuple[int, int], device: str) -> dict:
    """One part at one size: ``seconds``, ``cpu_seconds`` and ``bytes``."""
    sys.path.insert(0, str(ROOT))
    import torch
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from nl_plugins.graph import force

    cfg = Config.fromfile(config)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model if part == 'model' else cfg.model.decode_head)
    model = model.eval().to(device)
    height, width = size
    if part == 'model':
        model.test_cfg.mode = 'whole'
        x = torch.randn(1, 3, height, width, device=device)
        metas = [dict(img_shape=size, ori_shape=size)]

        def forward(x):
            return model.encode_decode(x, metas)

    else:
        x = torch.randn(
            1, model.channels, height // STRIDE, width // STRIDE, device=device
        )
        forward = model.convs[1] if part == 'conv' else model.nl_block

    def run(x):
        start = time.perf_counter(), time.process_time()
        with torch.inference_mode(), force('dense' if part == 'dense' else 'auto'):
            forward(x)
        if device != 'cpu':
            torch.cuda.synchronize()
        return time.perf_counter() - start[0], time.process_time() - start[1]

    # Libraries load on the first call; a crop this small costs next to nothing.
    run(x[..., :64, :64] if part == 'model' else x[..., :8, :8])
    before = 0 if part == 'model' else peak_bytes(device, reset=True)
    times = [run(x)]
    used = peak_bytes(device) - before
    if part != 'model':
        times += [run(x) for _ in range(2)]
    seconds, cpu_seconds = map(min, zip(*times))
    return dict(seconds=seconds, cpu_seconds=cpu_seconds, bytes=used)


def in_subprocess(args: argparse.Namespace, part: str, size: tuple[int, int]) -> dict:
    """:func:`measure` in a fresh process, so that its peak memory is its own."""
    command = [
        sys.executable,
        __file__,
        str(args.config),
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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=Path, nargs='?', default=CONFIG)
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
    parser.add_argument('--one', choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if not args.config.is_file():
        parser.error(f'there is no config {args.config}')
    if args.one:
        print(json.dumps(measure(args.config, args.one, args.sizes[0], args.device)))
        return 0
    figures = []
    print(f'{"image":>10} {"part":>6} {"seconds":>9} {"cpu s":>9} {"peak MiB":>9}')
    for size in args.sizes:
        for part in args.parts:
            row = dict(image=f'{size[0]}x{size[1]}', part=part)
            if part == 'dense' and 3 * dense_bytes(size) > args.dense_limit * GIB:
                one = dense_bytes(size) / GIB
                print(f'{row["image"]:>10} {part:>6} one N x N matrix is {one:.0f} GiB')
                continue
            row.update(in_subprocess(args, part, size))
            figures.append(row)
            print(
                f'{row["image"]:>10} {part:>6} {row["seconds"]:9.2f} '
                f'{row["cpu_seconds"]:9.2f} {row["bytes"] / 2**20:9.0f}',
                flush=True,
            )
    if args.json:
        temporary = args.json.with_suffix('.tmp')
        temporary.write_text(json.dumps(figures, indent=2))
        temporary.replace(args.json)
    return 0


if __name__ == '__main__':
    sys.exit(main())
