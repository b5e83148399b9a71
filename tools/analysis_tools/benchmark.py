# Copyright (c) The nl_plugins authors. All rights reserved.
"""Our formulation against the dense one, side by side in one run: time and peak memory.

    python tools/analysis_tools/benchmark.py blocks --suite crop
    python tools/analysis_tools/benchmark.py blocks --block SNLBlock --shape 1,64,32,32
    python tools/analysis_tools/benchmark.py model CONFIG --shape 1,3,512,1024
    python tools/analysis_tools/benchmark.py regret --cases 200
    python tools/analysis_tools/benchmark.py networks --repeats 3

The dense formulation builds every matrix of the block's formula. For NLBlock it is
mmcv's own module, for ChebyshevNLBlock the matrix polynomial; for every other block it
is the same module with each affinity built as a matrix (``graph.force('dense')``). Both
formulations run alternately on the same weights and input, the best of the repeats
counts, and the difference of their results is checked and printed. ``regret`` shows
how far the planner's choices are from the best, ``networks`` whole networks.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import nl_plugins  # noqa: F401  (repairs upstream before mm packages are imported)
from nl_plugins import graph
from nl_plugins.analysis.complexity import flop_counter
from nl_plugins.analysis.memory import peak_memory, synchronize
from nl_plugins.blocks import BLOCKS
from nl_plugins.blocks.base import matrix
from nl_plugins.files import open_whole

CLOCKS = {'wall': time.perf_counter, 'cpu': time.process_time}

CIFAR, CROP, FULL = (128, 32, 16, 16), (1, 512, 64, 128), (1, 512, 128, 256)
CLIP = (1, 512, 8, 28, 28)
SPECTRAL = [
    ('SNLBlock', {}),
    ('ChebyshevNLBlock', {'order': 2}),
    ('NLBlock', {'mode': 'embedded_gaussian'}),
    ('NLBlock', {'mode': 'dot_product'}),
    ('A2Block', {}),
    ('CayleyNLBlock', {}),
]
CONCAT = ('NLBlock', {'mode': 'concatenation'})
RNL = ('RNLBlock', {'kernel_size': (3, 7, 7)})
#: Name -> (block, options, shape) rows.
SUITES = {
    'cifar': [(*case, CIFAR) for case in [*SPECTRAL, CONCAT]],
    'crop': [(*case, CROP) for case in SPECTRAL],
    'full': [(*case, FULL) for case in SPECTRAL],
    'clip': [(*RNL, CLIP)],
    'family': [
        (name, options, (2, 64, *[(24,), (24, 24), (4, 12, 12)][ndim - 1]))
        for name, block in sorted(BLOCKS.items())
        for options in block.variants.values()
        for ndim in block.ndims[-2:-1]
    ],
    'small': [
        (*case, shape)
        for case in [*SPECTRAL, CONCAT, ('RNLBlock', {}), ('CGNLBlock', {})]
        for shape in [(8, 64, 2, 2), (8, 512, 7, 7), (8, 256, 14, 14), (2, 64, 32, 32)]
    ],
    'tiny': [
        (name, options, shape)
        for name, block in sorted(BLOCKS.items())
        for options in block.variants.values()
        for shape in [(1, 64, 2, 2), (1, 64, 7, 7), (1, 512, 7, 7), (2, 64, 14, 14)]
        if name != 'ChannelGate'  # has no affinity
    ],
}


@dataclass
class Row:
    """One case. Times in milliseconds, memory in MiB, ratios dense over ours."""

    case: str
    shape: list[int]
    forward_dense: float | None
    forward: float
    forward_ratio: float | None
    step_dense: float | None
    step: float
    step_ratio: float | None
    memory_dense: float | None
    memory: float
    memory_ratio: float | None
    step_memory_dense: float | None
    step_memory: float
    step_memory_ratio: float | None
    forward_limit: float
    over_limit: float
    difference: float | None


def as_written(block: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The published module where it can be imported, with the block's weights."""
    kind = type(block).__name__
    scales = (1.0, block.inner_channels**-0.5) if kind == 'NLBlock' else ()
    if kind == 'NLBlock' and block.scale in scales and not block.pool_first:
        from mmcv.cnn.bricks import non_local

        twin = getattr(non_local, f'NonLocal{block.ndim}d')(
            block.in_channels,
            reduction=block.reduction,
            mode=block.mode,
            use_scale=block.scale != 1.0,
            sub_sample=block.sub_sample,
            norm_cfg=block.norm_cfg,
        )
        try:
            twin.load_state_dict(block.state_dict())
        except RuntimeError:  # an option that mmcv does not have
            return None
        twin.concatenation = partial(concatenation, twin)
        return twin.to(next(block.parameters()))
    if kind == 'ChebyshevNLBlock' and not block.stable:
        return lambda x: matrix_polynomial(block, x)
    return None


def concatenation(block: nn.Module, theta: Tensor, phi: Tensor) -> Tensor:
    """mmcv's weights; its division in place cannot be differentiated by today's torch.

    Args:
        block (nn.Module): Holds ``concat_project``.
        theta (Tensor): (B, C', N, 1).
        phi (Tensor): (B, C', 1, M).

    Returns:
        Tensor: (B, N, M).
    """
    keys = phi.shape[3]
    pairs = [theta.expand(-1, -1, -1, keys), phi.expand(-1, -1, theta.shape[2], -1)]
    return block.concat_project(torch.cat(pairs, dim=1)).squeeze(1) / keys


def matrix_polynomial(block: nn.Module, x: Tensor) -> Tensor:
    """The Chebyshev block with every T_k(A) built: T_2 = 2 A A - I, and so on."""
    affinity = block.affinity(x).dense()
    eye = torch.eye(affinity.shape[1], dtype=x.dtype, device=x.device)
    terms = [eye.expand_as(affinity), affinity]
    while len(terms) <= block.order:
        terms.append(2 * affinity @ terms[-1] - terms[-2])
    if not block.zero_order:
        del terms[0]
    for unit in block.each_unit():
        (values,) = block.project(x, unit.g)
        weights = matrix(unit.conv_out).split(block.width, dim=1)
        mixed = sum(t @ values @ w.mT for t, w in zip(terms, weights))
        x = block.output(x, mixed, unit.conv_out)
    return x


def trained(block: nn.Module) -> nn.Module:
    """Weights that are not zero-initialised, or the block would be the identity."""
    torch.manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return block


def matrix_product_rate(device: str, clock: Callable[[], float]) -> float:
    """Multiplications a second of a large matrix product here."""
    x = torch.randn(2048, 2048, device=device)
    return (
        2048**3 / best_times({'product': lambda: x @ x}, 1.0, device, clock)['product']
    )


def best_times(
    runs: dict[str, Callable], seconds: float, device: str, clock: Callable[[], float]
) -> dict[str, float]:
    """Least seconds of each run; the runs take turns, each for about ``seconds``.

    The first turn warms up. It counts only of a run that is too long for another and
    of another order than the fastest: rivals are never compared cold with warm.
    """

    def once(run: Callable) -> float:
        synchronize(device)
        start = clock()
        run()
        synchronize(device)
        return clock() - start

    first = {name: once(run) for name, run in runs.items()}
    once_only = max(10 * seconds, 3 * min(first.values()))
    best = {name: t if t > once_only else math.inf for name, t in first.items()}
    turns = {
        name: int(min(5000, max(2, seconds / max(t, 1e-6)))) if best[name] > t else 0
        for name, t in first.items()
    }
    for turn in range(max(turns.values())):
        for name, run in runs.items():
            if turn < turns[name]:
                best[name] = min(best[name], once(run))
    return best


def compare(
    name: str,
    module: nn.Module,
    dense: Callable[[Tensor], Tensor] | None,
    x: Tensor,
    args: argparse.Namespace,
    rate: float,
) -> Row:
    """Measure one module: ``dense`` None means the module itself, forced."""
    clock, device = CLOCKS[args.clock], args.device
    held = dense_bytes(module, x)

    def forward(formulation: str) -> Tensor:
        if formulation == 'dense':
            with graph.force('dense'):
                return (dense or module)(x)
        return module(x)

    def step(formulation: str) -> None:
        out = forward(formulation)
        loss = out if isinstance(out, Tensor) else out[-1]
        loss.square().sum().backward()
        # Here: a gradient from before would count in one measurement of memory only.
        for owner in (module, dense):
            if isinstance(owner, nn.Module):
                owner.zero_grad(set_to_none=True)
        x.grad = None

    def measure(function: Callable[[str], object]) -> tuple[dict, dict]:
        too_large = held[function.__name__] > args.dense_limit * 2**30
        kinds = ['ours'] if too_large else ['dense', 'ours']
        runs = {kind: (lambda kind=kind: function(kind)) for kind in kinds}
        seconds = best_times(runs, args.seconds, device, clock)
        memory = {kind: peak_memory(run, device) for kind, run in runs.items()}
        return seconds, memory

    with torch.no_grad():
        seconds, memory = measure(forward)
        difference = None
        if 'dense' in seconds:
            one, other = forward('ours'), forward('dense')
            difference = ((one - other).abs().max() / other.abs().max()).item()
        with flop_counter() as counter:
            forward('ours')
    limit = counter.get_total_flops() / 2 / rate
    step_seconds, step_memory = measure(step)

    def ratio(values: dict) -> float | None:
        return (
            values['dense'] / max(values['ours'], 1e-9) if 'dense' in values else None
        )

    def scaled(values: dict, kind: str, factor: float) -> float | None:
        return values[kind] * factor if kind in values else None

    mebi = 2**-20
    return Row(
        name,
        list(x.shape),
        scaled(seconds, 'dense', 1e3),
        seconds['ours'] * 1e3,
        ratio(seconds),
        scaled(step_seconds, 'dense', 1e3),
        step_seconds['ours'] * 1e3,
        ratio(step_seconds),
        scaled(memory, 'dense', mebi),
        memory['ours'] * mebi,
        ratio(memory),
        scaled(step_memory, 'dense', mebi),
        step_memory['ours'] * mebi,
        ratio(step_memory),
        limit * 1e3,
        seconds['ours'] / max(limit, 1e-12),
        difference,
    )


def dense_bytes(module: nn.Module, x: Tensor) -> dict[str, int]:
    """About what the dense forward and step hold, from the matrices of the blocks."""
    matrices: list[tuple[nn.Module, int]] = []

    def count(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        batch, queries, keys = block.affinity(inputs[0]).shape
        matrices.append((block, batch * queries * keys * x.element_size()))

    hooks = [
        block.register_forward_pre_hook(count)
        for block in module.modules()
        if hasattr(block, 'affinity')
    ]
    try:
        with torch.no_grad():
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
    forward = max((size * copies(block)[0] for block, size in matrices), default=0)
    return {
        'forward': forward,
        'step': sum(size * copies(block)[1] for block, size in matrices),
    }


def copies(block: nn.Module) -> tuple[int, int]:
    """Matrices that the dense forward and step hold at once, as measured."""
    if is_concat(block):  # every channel of every pair
        return 2 * block.inner_channels, 3 * block.inner_channels
    return {'NLBlock': (2, 3), 'SNLBlock': (3, 5)}.get(type(block).__name__, (3, 8))


def is_concat(module: nn.Module) -> bool:
    return getattr(module, 'mode', None) == 'concatenation'


def block_rows(args: argparse.Namespace, rate: float):
    if args.block:
        cases = [(args.block, args.options, shape) for shape in args.shape or [CIFAR]]
    else:
        cases = SUITES[args.suite]
    for name, options, shape in cases:
        block = trained(BLOCKS[name](shape[1], ndim=len(shape) - 2, **options))
        block = block.to(args.device)
        x = torch.randn(shape, device=args.device, requires_grad=True)
        options = ', '.join(f'{k}={v}' for k, v in options.items())
        yield compare(f'{name}({options})', block, as_written(block), x, args, rate)


def model_rows(args: argparse.Namespace, rate: float):
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    config = Config.fromfile(args.config)
    init_default_scope(config.get('default_scope', 'mmengine'))
    # No init_weights(): it would fetch the pretrained weights that a config names.
    model = MODELS.build(config.model).to(args.device).eval()

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            out = self.model(x, mode='tensor')
            while isinstance(out, (tuple, list)):
                out = out[-1] if isinstance(out[-1], Tensor) else out[0]
            return out

    for shape in args.shape or [(1, 3, 224, 224)]:
        x = torch.randn(shape, device=args.device, requires_grad=True)
        yield compare(Path(args.config).stem, Features(), None, x, args, rate)


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        '| case | shape | forward, ms (dense) | ratio | step, ms (dense) | ratio | '
        'memory, MiB (dense) | ratio | step memory, MiB (dense) | ratio | '
        'over limit |',
        '|---' * 11 + '|',
    ]

    def pair(ours: float, dense: float | None) -> str:
        return f'{ours:.4g} ({"too large" if dense is None else f"{dense:.4g}"})'

    def times(ratio: float | None) -> str:
        return '–' if ratio is None else f'{ratio:.2f}x'

    for row in rows:
        cells = [
            row.case,
            'x'.join(map(str, row.shape)),
            pair(row.forward, row.forward_dense),
            times(row.forward_ratio),
            pair(row.step, row.step_dense),
            times(row.step_ratio),
            pair(row.memory, row.memory_dense),
            times(row.memory_ratio),
            pair(row.step_memory, row.step_memory_dense),
            times(row.step_memory_ratio),
            f'{row.over_limit:.1f}x',
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """Bars of the ratios, one group a case whose dense form was run."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    kinds = {
        'forward': 'forward_ratio',
        'training step': 'step_ratio',
        'memory of a step': 'step_memory_ratio',
    }
    rows = [row for row in rows if any(getattr(row, k) for k in kinds.values())]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.55 * len(rows)))
    for offset, (label, field) in enumerate(kinds.items()):
        ratios = [getattr(row, field) for row in rows]
        places = [index + 0.27 * (offset - 1) for index in range(len(rows))]
        # A bar begins at 1, where the two are equal.
        widths = [(ratio or 1) - 1 for ratio in ratios]
        bars = axes.barh(places, widths, 0.25, left=1, label=label)
        for bar, ratio in zip(bars, ratios):
            end, middle = max(ratio or 1, 1), bar.get_y() + bar.get_height() / 2
            text = f' {ratio:.1f}x' if ratio else ' dense form too large'
            axes.text(end, middle, text, va='center', fontsize=8)
    axes.margins(y=0.01)
    names = [f'{row.case}\n{"x".join(map(str, row.shape))}' for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale('log')
    axes.margins(x=0.2)
    axes.axvline(1, color='black', linewidth=0.8)
    axes.set_xlabel('dense formulation / ours (higher is better for ours)')
    axes.legend(loc='lower right')
    figure.tight_layout()
    with open_whole(path) as file:
        figure.savefig(file, dpi=110, format='png')
    plt.close(figure)


def machine(args: argparse.Namespace) -> dict:
    """What the numbers depend on."""
    gpu = args.device != 'cpu' and torch.cuda.get_device_name(args.device)
    return {
        'device': gpu or f'{platform.machine()} CPU',
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
        'clock': args.clock,
        'command': ' '.join(['benchmark.py', *sys.argv[1:]]),
    }


def sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(','))


def json_object(text: str) -> dict:
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError):
        example = '{"mode": "gaussian"}'
        raise argparse.ArgumentTypeError(
            f'takes a JSON object such as {example}, but got {text!r}'
        ) from None


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('level', choices=['blocks', 'model', 'regret', 'networks'])
    parser.add_argument('config', nargs='?', help='config file, for level model')
    parser.add_argument('--suite', choices=SUITES, default='cifar')
    parser.add_argument('--block', choices=sorted(BLOCKS))
    parser.add_argument(
        '--options', type=json_object, default={}, help='block options as JSON'
    )
    parser.add_argument('--shape', type=sizes, action='append', help='N,C,...')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument(
        '--seconds', type=float, default=5.0, help='time to spend on a measurement'
    )
    parser.add_argument(
        '--dense-limit',
        type=float,
        default=12.0,
        help='GiB above which the dense formulation is not run',
    )
    parser.add_argument(
        '--clock',
        choices=CLOCKS,
        default='wall',
        help='cpu: processor time of this process, whatever else the machine does',
    )
    parser.add_argument(
        '--cases',
        type=int,
        help='cases of the grid to draw, for regret; all by default',
    )
    parser.add_argument('--seed', type=int, default=0, help='by which regret draws')
    parser.add_argument('--only', nargs='+', help='parts of name and input of networks')
    parser.add_argument(
        '--repeats', type=int, default=3, help='rounds of each of the networks'
    )
    parser.add_argument('--out', type=Path, help='folder for benchmark.json and .png')
    args = parser.parse_args(argv)
    if args.level == 'model' and not args.config:
        parser.error('level model needs a CONFIG')
    return args


def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.level in ('regret', 'networks'):
        return compare_all(args)
    rate = matrix_product_rate(args.device, CLOCKS[args.clock])
    rows = []
    source = block_rows if args.level == 'blocks' else model_rows
    about = machine(args)
    try:
        for row in source(args, rate):
            rows.append(row)
            print(table([row]).splitlines()[-1], flush=True)
            if args.out:
                save(args.out, {**about, 'rate': rate}, rows)
    finally:
        if args.out and rows:
            plot(rows, args.out / 'benchmark.png')
    print(f'\n{json.dumps(about)}\n{rate / 1e9:.1f} G multiplications/s\n')
    print(table(rows))


def compare_all(args: argparse.Namespace) -> None:
    """The levels ``regret`` and ``networks``: a table at the end, JSON as it grows."""
    about, found = machine(args), []
    if args.level == 'regret':
        import benchmark_regret as level

        source = level.rows(args)
    else:
        import benchmark_networks as level

        source = level.rows(args, partial(best_times, clock=CLOCKS[args.clock]))
    for row in source:
        found.append(row)
        print(level.table([row]).splitlines()[2], flush=True)
        if args.out:
            save(args.out, about, found)
    print(f'\n{json.dumps(about)}\n\n{level.table(found)}')


def save(folder: Path, about: dict, rows: list) -> None:
    """Write ``benchmark.json``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    rows_as_dicts = [asdict(row) for row in rows]
    with open_whole(folder / 'benchmark.json', 'w') as file:
        json.dump({**about, 'rows': rows_as_dicts}, file, indent=1)


if __name__ == '__main__':
    main()
