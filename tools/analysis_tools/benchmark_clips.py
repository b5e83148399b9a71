# Copyright (c) The nl_plugins authors. All rights reserved.
"""Whole video networks on one clip: our formulation against the dense one.

    python tools/analysis_tools/benchmark_clips.py CONFIG --clip 8,224 --clip 16,256

Each formulation runs in a process of its own: one forward pass in evaluation mode, then
one training step, both after a warm-up on a small clip. Time is CPU time, or wall time
on a GPU; memory is the peak above the built network: of the process on a CPU, of the
allocator on a GPU. The dense formulation, ``graph.force('dense')``, has the same
weights and input; the difference of the logits is printed.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FORMULATIONS = ('dense', 'ours')
MEBI = 2**20


def build(path: str):
    """The config's network without pretrained weights, no block the identity."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    import nl_plugins  # noqa: F401

    config = Config.fromfile(path).model
    init_default_scope('mmaction')
    backbone = config.backbone.get('backbone', config.backbone)
    if 'pretrained' in backbone:
        backbone.update(pretrained=None)
        if backbone.type != 'ResNet':
            backbone.update(pretrained2d=False)
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    for parameter in model.parameters():
        if not parameter.any() and parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def clip_of(model, frames: int, size: int, device: str):
    """One clip as the recogniser takes it."""
    import torch

    torch.manual_seed(1)
    if type(model).__name__ == 'Recognizer2D':
        shape = (1, frames, 3, size, size)
    else:
        shape = (1, 1, 3, frames, size, size)
    return torch.randn(shape, device=device)


def logits(model, clip):
    """Scores of the clip, (1, classes)."""
    features, extra = model.extract_feat(clip)
    return model.cls_head(features, **extra)


def measure(args: argparse.Namespace) -> dict:
    """Forward pass and training step of one formulation, in this process."""
    import torch

    from nl_plugins import graph

    torch.set_num_threads(args.threads)
    cuda = args.device.startswith('cuda')
    model = build(args.config).to(args.device)
    frames, size = args.clip[0]
    clock = time.perf_counter if cuda else time.process_time

    def peak() -> float:
        if cuda:
            return torch.cuda.max_memory_allocated(args.device) / MEBI
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def timed(function):
        if cuda:
            torch.cuda.synchronize(args.device)
        start = clock()
        result = function()
        if cuda:
            torch.cuda.synchronize(args.device)
        return result, clock() - start

    def step(clip):
        model.train()
        for module in model.modules():
            if type(module).__name__ == 'ChannelGate':
                module.eval()  # its norm cannot train on one clip
        logits(model, clip).square().sum().backward()

    def forward(clip):
        with torch.no_grad():
            return logits(model.eval(), clip)

    with graph.force('dense' if args.formulation == 'dense' else 'auto'):
        small = clip_of(model, frames, 32, args.device)
        forward(small)
        step(small)
        model.zero_grad(set_to_none=False)
        clip = clip_of(model, frames, size, args.device)
        before = peak()
        out, forward_time = timed(lambda: forward(clip))
        forward_memory = peak() - before
        _, step_time = timed(lambda: step(clip))
        step_memory = peak() - before
    return dict(
        forward_s=forward_time,
        forward_mib=forward_memory,
        step_s=step_time,
        step_mib=step_memory,
        logits=out.flatten().tolist(),
    )


def in_a_process(config: str, clip: tuple, formulation: str, args) -> dict:
    """``measure`` in a fresh process, for a peak of its own."""
    command = [sys.executable, __file__, config, '--clip', '{},{}'.format(*clip)]
    command += ['--formulation', formulation, '--device', args.device]
    command += ['--threads', str(args.threads)]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    threads = str(args.threads)
    environment = dict(os.environ, PYTHONPATH=paths, OMP_NUM_THREADS=threads)
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        raise RuntimeError(f'{config} {clip} {formulation}: exit {run.returncode}')
    return json.loads(run.stdout.splitlines()[-1])


def row(config: str, clip: tuple, args: argparse.Namespace) -> dict:
    """Both formulations side by side."""
    found = {kind: in_a_process(config, clip, kind, args) for kind in FORMULATIONS}
    ours, dense = found['ours'].pop('logits'), found['dense'].pop('logits')
    largest = max(abs(x) for x in dense)
    difference = max(abs(x - y) for x, y in zip(ours, dense)) / largest
    return dict(
        config=Path(config).stem, frames=clip[0], size=clip[1], difference=difference
    ) | {f'{kind}_{key}': v for kind in FORMULATIONS for key, v in found[kind].items()}


def table(rows: Sequence[dict]) -> str:
    """Markdown, dense / ours = ratio in each cell."""
    lines = [
        '| network | frames, size | forward, s | step, s | forward, MiB | step, MiB | '
        'difference |',
        '| --- | --- | --- | --- | --- | --- | --- |',
    ]
    for r in rows:
        cells = []
        for key, digits in (
            ('forward_s', 2),
            ('step_s', 2),
            ('forward_mib', 0),
            ('step_mib', 0),
        ):
            dense, ours = r[f'dense_{key}'], r[f'ours_{key}']
            ratio = f'{dense / ours:.2f}' if ours else '–'  # within what was held
            cells.append(f'{dense:,.{digits}f} / {ours:,.{digits}f} = {ratio}')
        name = r['config'].split('_8xb')[0].split('_4xb')[0]
        lines.append(
            f'| {name} | {r["frames"]} x {r["size"]}² | {" | ".join(cells)} | '
            f'{r["difference"]:.0e} |'
        )
    return '\n'.join(lines)


def sizes(text: str) -> tuple[int, int]:
    frames, size = text.split(',')
    return int(frames), int(size)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of a recogniser')
    parser.add_argument(
        '--clip', type=sizes, action='append', required=True, help='FRAMES,SIZE'
    )
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads')
    parser.add_argument('--out', type=Path, help='append the rows to a json file')
    parser.add_argument(
        '--formulation', choices=FORMULATIONS, help='measure this one here, print json'
    )
    args = parser.parse_args(argv)
    if args.formulation:
        print(json.dumps(measure(args)))
        return
    sys.path.insert(0, str(ROOT))
    from nl_plugins.files import write_text

    rows = []
    for clip in args.clip:
        print(f'{Path(args.config).stem}: {clip[0]} x {clip[1]}²', file=sys.stderr)
        rows.append(row(args.config, clip, args))
        if args.out:
            old = json.loads(args.out.read_text()) if args.out.is_file() else []
            machine = dict(machine=platform.processor(), threads=args.threads)
            write_text(args.out, json.dumps([*old, rows[-1] | machine], indent=1))
    print(table(rows))


if __name__ == '__main__':
    main()
