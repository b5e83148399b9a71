# Copyright (c) The nl_plugins authors. All rights reserved.
"""What the sections share: a record that survives a crash, precisions, blocks."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: Relative errors of (result, gradients) against float64 that count as rounding.
TOLERANCES = {
    'fp32': (1e-4, 1e-3),
    'tf32': (1e-2, 3e-2),
    'bf16': (4e-2, 1e-1),
    'fp16': (6e-3, 3e-2),
}
HALF = {'bf16': torch.bfloat16, 'fp16': torch.float16}


def write_json(path: Path, value: Any) -> None:
    """Write a file that is either whole or not there."""
    from nl_plugins.files import write_text

    write_text(path, json.dumps(value, default=str, indent=1))


@dataclass
class Section:
    """One section while it runs.

    Attributes:
        name (str): Of the section.
        device (str): ``'cuda'`` or ``'cpu'``.
        quick (bool): A few small cases only.
        seconds (float): After which it starts nothing new.
        out (Path): Folder of its part of the report.
        tile_sweep (bool): Whether to time several sizes of tiles.
        data (str, optional): An ``.npz`` of CIFAR images.
        rows (dict): Lists of measurements by the name of their table.
        verdicts (list): Dicts of ``check``, ``outcome`` and ``detail``.
        errors (list): What went wrong.
        skipped (list): What no time was left for.
    """

    name: str
    device: str
    quick: bool
    seconds: float
    out: Path
    tile_sweep: bool = False
    data: str | None = None
    rows: dict[str, Any] = field(default_factory=dict)
    verdicts: list[dict] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)
    saved: float = 0.0

    @property
    def cuda(self) -> bool:
        return self.device != 'cpu'

    def left(self) -> float:
        """Seconds until the section should end."""
        return self.seconds - (time.monotonic() - self.start)

    def add(self, table: str, row: dict) -> dict:
        """Append a row; the part on disk follows every two seconds."""
        self.rows.setdefault(table, []).append(row)
        if time.monotonic() - self.saved > 2:
            self.save()
        return row

    def save(self) -> None:
        self.saved = time.monotonic()
        names = ('rows', 'verdicts', 'errors', 'skipped')
        part = {name: getattr(self, name) for name in names}
        part['seconds'] = round(self.saved - self.start, 1)
        write_json(self.out / f'{self.name}.json', part)

    def attempt(self, what: str, function: Callable, *args: Any) -> Any:
        """``function(*args)``, or None where no time was left or it broke."""
        if self.left() < 1:
            self.skipped.append(what)
            return None
        try:
            return function(*args)
        except Exception as error:
            self.errors.append(f'{what}: {sentence(error)}')
            if 'out of memory' in str(error):
                gc.collect()
                torch.cuda.empty_cache()
            return None

    def verdict(self, check: str, passed: bool | None, detail: str) -> None:
        """Judge: True is ``ok``, False ``FAIL``, None ``not run``."""
        outcome = {True: 'ok', False: 'FAIL', None: 'not run'}[passed]
        self.verdicts.append(dict(check=check, outcome=outcome, detail=detail))

    def goal(self, check: str, reached: list[tuple[str, bool]]) -> None:
        """Judge goals of speed: missing one is ``short``, which is no failure."""
        missed = [what for what, good in reached if not good]
        outcome = 'not run' if not reached else 'short' if missed else 'ok'
        detail = f'{len(reached) - len(missed)} of {len(reached)}'
        if missed:
            detail += '; short: ' + ', '.join(missed[:8])
            detail += f' and {len(missed) - 8} more' if len(missed) > 8 else ''
        self.verdicts.append(dict(check=check, outcome=outcome, detail=detail))


def sentence(error: BaseException) -> str:
    """The first line of an error, with its kind; of the first of those that follow."""
    while error.__context__ is not None:
        error = error.__context__
    lines = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {lines[0][:200]}'


@contextmanager
def products(name: str) -> Iterator[None]:
    """Float32 products in TF32 for ``'tf32'``, and in float32 for all others."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = name == 'tf32'
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def cast(name: str, device: str) -> AbstractContextManager:
    """Autocast for ``'bf16'`` and ``'fp16'``; as in training, of the forward pass."""
    if name not in HALF:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=HALF[name])


def precisions(section: Section) -> tuple[str, ...]:
    """Those that the device computes in."""
    return ('fp32', 'tf32', 'bf16', 'fp16') if section.cuda else ('fp32', 'bf16')


def formulated(name: str) -> AbstractContextManager:
    """A context in which affinities are computed in one way; 'auto' changes nothing."""
    from nl_plugins import graph

    return nullcontext() if name == 'auto' else graph.force(name)


def decisions_of(run: Callable[[], object]) -> list[Any]:
    """What the planner decided while ``run()`` ran."""
    from nl_plugins.graph import plan

    with plan.decisions() as taken:
        run()
    return [decision for _, decision in taken]


def variants() -> list[tuple[str, str, dict]]:
    """(class name, variant, options) of every block."""
    from nl_plugins.blocks import BLOCKS

    return [
        (name, variant, options)
        for name, block in sorted(BLOCKS.items())
        for variant, options in block.variants.items()
    ]


def draw(module: nn.Module) -> nn.Module:
    """Weights with which no block is the identity, and gradients of order one."""
    torch.manual_seed(0)
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            else:
                nn.init.normal_(parameter, std=0.3)
        if isinstance(layer, norms) and layer.weight is not None:
            nn.init.ones_(layer.weight)
    return module


def build(name: str, options: dict, channels: int, ndim: int) -> nn.Module:
    """A block of ours that is not the identity."""
    from nl_plugins.blocks import BLOCKS

    return draw(BLOCKS[name](channels, ndim=ndim, **options))


def memory_format(ndim: int) -> torch.memory_format:
    """Channels last, of a map with ``ndim`` sizes."""
    return torch.channels_last if ndim == 2 else torch.channels_last_3d


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of ``expected``; inf if not finite."""
    found, expected = found.double().cpu(), expected.double().cpu()
    if not found.isfinite().all():
        return float('inf')
    return ((found - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def label(name: str, options: dict) -> str:
    """A block with its options, as tables write it."""
    return f'{name}({", ".join(f"{k}={v}" for k, v in options.items())})'
