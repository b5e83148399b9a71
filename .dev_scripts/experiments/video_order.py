# Copyright (c) The nl_plugins authors. All rights reserved.
"""Mini Something and mini Kinetics: what does a network know about order?

    python .dev_scripts/experiments/video_order.py --seeds 0 1 2

The synthetic sets are made in the work folder first. Their classes are pairs that
differ in the order of events. Every network is trained by its own config, then tested
with the frames in order, reversed, shuffled, and with one frame repeated, and with the
affinity of its blocks replaced. An interrupted call goes on after its last run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from runs import Runs

import nl_plugins  # noqa: F401
from nl_plugins.analysis import ablate, frame_order
from nl_plugins.analysis.ablation import filtering_modules
from nl_plugins.blocks import ChannelGate

ROOT = Path(__file__).resolve().parents[2]
ORDERS = ('in_order', 'reversed', 'shuffled', 'repeated')
ABLATIONS = ('mean_row', 'identity', 'off')
C2D = 'nl/c2d_r18_1xb16-8x4x1-8e_mini-sthv1-rgb.py'
TSM = 'rnl/tsm_r18-rnl_1xb8-1x1x8-8e_mini-sthv1-rgb.py'
I3D = 'nl/i3d_r18-nl_1xb8-16x2x1-8e_mini-kinetics400-rgb.py'
#: Config, and whether its blocks are taken out.
NETWORKS = {
    'C2D': (C2D, False),
    'C2D + NL': ('nl/c2d_r18-nl_1xb16-8x4x1-8e_mini-sthv1-rgb.py', False),
    'C2D + RNL': ('rnl/c2d_r18-rnl_1xb16-8x4x1-8e_mini-sthv1-rgb.py', False),
    'I3D': (I3D, True),
    'I3D + NL': (I3D, False),
    'TSM': (TSM, True),
    'TSM + RNL': (TSM, False),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument(
        '--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS)
    )
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--sthv1', type=int, nargs=2, default=[640, 160])
    parser.add_argument('--kinetics400', type=int, nargs=2, default=[320, 80])
    parser.add_argument(
        '--out', type=Path, default=ROOT / 'docs/en/findings/video_order.json'
    )
    parser.add_argument('--work-dir', type=Path, default='work_dirs/video_order')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    setting = dict(
        epochs=args.epochs, sthv1=args.sthv1, kinetics400=args.kinetics400, classes=8
    )
    runs = Runs(args.out, setting)
    data = args.work_dir / 'data'
    for name in ('sthv1', 'kinetics400'):
        if not (data / name).exists():
            sizes = [str(number) for number in getattr(args, name)]
            script = str(ROOT / 'tools/dataset_converters/make_mini_data.py')
            command = [sys.executable, script, '--only', name, f'--{name}', *sizes]
            subprocess.run([*command, '--out', str(data)], check=True)
    for seed in args.seeds:
        for name in args.networks:
            if not runs.has(seed, name):
                runs.add(run(args, data, seed, name))
                print(runs.runs[-1], flush=True)


def run(args: argparse.Namespace, data: Path, seed: int, name: str) -> dict:
    """Train one network and test it with each order."""
    config = network_config(args, data, seed, name)
    runner = Runner.from_cfg(config)
    started = time.process_time()
    runner.train()
    seconds = time.process_time() - started
    runner.test_loop.dataloader = Decoded(runner.test_loop.dataloader)
    scores, ablated = {}, {}
    for order in ORDERS:
        with frame_order(runner.model, order):
            scores[order] = top1(runner)
    # A gate has one row for all positions: there is nothing to replace.
    layers = [
        name
        for name, block in filtering_modules(runner.model).items()
        if not isinstance(block, ChannelGate)
    ]
    for how in ABLATIONS if layers else ():
        with ablate(runner.model, how, layers):
            ablated[how] = top1(runner)
    return dict(
        seed=seed,
        variant=name,
        set='mini Kinetics' if name.startswith('I3D') else 'mini Something',
        top1=scores,
        ablated=ablated,
        parameters=sum(p.numel() for p in runner.model.parameters()),
        train_cpu_seconds=round(seconds, 1),
    )


class Decoded(list):
    """The batches of a loader, decoded once."""

    def __init__(self, loader) -> None:
        super().__init__(loader)
        self.dataset = loader.dataset


def top1(runner: Runner) -> float:
    """Of the test set, in percent."""
    return round(100 * float(runner.test()['acc/top1']), 3)


def network_config(
    args: argparse.Namespace, data: Path, seed: int, name: str
) -> Config:
    """The config of a network, on the data here and without files of its own."""
    path, plain = NETWORKS[name]
    config = Config.fromfile(ROOT / 'configs/recognition' / path)
    if plain:
        config.model.backbone = config.model.backbone.backbone
    config.work_dir = str(args.work_dir / f'{name.replace(" ", "")}-{seed}')
    config.experiment_name = f'{name.replace(" ", "")}-{seed}'
    config.randomness = dict(seed=seed)
    config.train_cfg.max_epochs = args.epochs
    config.train_cfg.val_interval = args.epochs + 1
    config.default_hooks.checkpoint = dict(
        type='CheckpointHook', interval=-1, save_last=False
    )
    config.log_level = 'WARNING'
    for part in ('train', 'val', 'test'):
        loader = config[f'{part}_dataloader']
        loader.num_workers = 0
        loader.persistent_workers = False
        for options in (loader.dataset, loader.dataset.data_prefix):
            for key, value in options.items():
                if isinstance(value, str) and value.startswith('data/mini/'):
                    options[key] = str(data / value.removeprefix('data/mini/'))
    return config


if __name__ == '__main__':
    main()
