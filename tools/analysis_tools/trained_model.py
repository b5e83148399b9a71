# Copyright (c) The nl_plugins authors. All rights reserved.
"""What the tools that look into a trained network share: its runner, and its inputs."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import nl_plugins  # noqa: E402, F401  repairs upstream before it is imported
from nl_plugins import files  # noqa: E402


def parser_of(text: str, checkpoint: bool = True) -> argparse.ArgumentParser:
    """Options that all of these tools take."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of the model')
    parser.add_argument(
        'checkpoint', nargs=None if checkpoint else '?', help='checkpoint of the model'
    )
    parser.add_argument('--json', type=Path, help='write the numbers there')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser


@contextmanager
def loaded(args: argparse.Namespace) -> Iterator[Runner]:
    """The runner of a config, that leaves no files; with the checkpoint, or as it is
    initialised.

    Raises:
        SystemExit: If a file does not exist.
    """
    for name in ('config', 'checkpoint'):
        path = getattr(args, name)
        if path is not None and not Path(path).is_file():
            raise SystemExit(f'{Path(sys.argv[0]).name}: {name} {path} does not exist')
    config = Config.fromfile(args.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    config.load_from = args.checkpoint
    config.resume = False
    config.log_level = 'WARNING'
    with TemporaryDirectory() as folder:
        config.work_dir = folder
        # mmengine keeps visualisers by name, and with them the folder of the first.
        config.experiment_name = Path(folder).name
        config.visualizer = None
        config.get('default_hooks', {}).pop('visualization', None)
        runner = Runner.from_cfg(config)
        if args.checkpoint is None:
            runner.model.init_weights()
        runner.load_or_resume()
        runner.model.eval()
        yield runner


def batches(runner: Runner, count: int) -> Iterator[dict]:
    """The first batches of the test set, as ``model.test_step`` takes them."""
    return itertools.islice(iter(runner.test_loop.dataloader), count)


def inputs(runner: Runner, count: int) -> Iterator[Tensor]:
    """What the backbone gets for the first batches of the test set."""
    model, seen = runner.model, []
    handle = backbone_of(model).register_forward_pre_hook(
        lambda module, args: seen.append(args[0].detach())
    )
    try:
        for batch in batches(runner, count):
            with torch.no_grad():
                model.test_step(batch)
            yield from seen
            seen.clear()
    finally:
        handle.remove()


def backbone_of(model: nn.Module) -> nn.Module:
    """The backbone of a model.

    Raises:
        SystemExit: If it has none.
    """
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        raise SystemExit(f'{Path(sys.argv[0]).name}: the model has no backbone')
    return backbone


def write_json(path: Path | None, content: dict) -> None:
    """Write a JSON whole or not at all; None writes nothing."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(content, indent=1) + '\n')


def write_picture(path: Path | None, picture) -> None:
    """Write an RGB picture whole or not at all; None writes nothing."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_picture(path, picture)


def numbers(metrics: dict) -> dict[str, float]:
    """The metrics of a test that are numbers."""
    return {
        key: float(value)
        for key, value in metrics.items()
        if isinstance(value, (int, float, np.number))
    }


def metric_table(rows: dict[str, dict[str, float]], first: str) -> str:
    """Metrics by row, in Markdown."""
    names = list(next(iter(rows.values())))
    lines = [
        f'| {first} | ' + ' | '.join(names) + ' |',
        '|' + ' --- |' * (len(names) + 1),
    ]
    for row, found in rows.items():
        cells = ' | '.join(f'{found[name]:.2f}' for name in names)
        lines.append(f'| {row} | {cells} |')
    return '\n'.join(lines)
