# Copyright (c) The nl_plugins authors. All rights reserved.
"""Write docs/en/findings.md and its pictures from the JSONs of the experiments.

    python .dev_scripts/experiments/findings_page.py
    python .dev_scripts/experiments/findings_page.py --check

``--check`` writes nothing, and fails if the page is not what the JSONs say.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from runs import paired_interval

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'docs/en/findings'
PAGE = ROOT / 'docs/en/findings.md'
PICTURES = ROOT / 'docs/en/_static'
ABLATIONS = {'mean_row': 'mean row', 'identity': 'identity', 'off': 'off'}


class Experiment:
    """The finished seeds of one JSON.

    Args:
        name (str): Of the file.
        needed (Sequence[str], optional): Variants that a seed must have to count; None
            means all of the file. Defaults to None.
    """

    def __init__(self, name: str, needed: Sequence[str] | None = None) -> None:
        content = json.loads((FOLDER / f'{name}.json').read_text())
        self.setting, self.machine = content['setting'], content['machine']
        self.runs = {(run['variant'], run['seed']): run for run in content['runs']}
        self.variants = list(dict.fromkeys(variant for variant, _ in self.runs))
        needed = self.variants if needed is None else needed
        seeds = sorted({seed for _, seed in self.runs})
        self.seeds = [s for s in seeds if all((v, s) in self.runs for v in needed)]

    def of(self, variant: str, value: Callable[[dict], float]) -> list[float]:
        """A number of every complete seed."""
        return [value(self.runs[variant, seed]) for seed in self.seeds]

    def mean(self, variant: str, value: Callable[[dict], float]) -> float:
        """Its mean."""
        return float(np.mean(self.of(variant, value)))

    def difference(
        self, variant: str, baseline: str, value: Callable[[dict], float]
    ) -> tuple[float, float, float]:
        """See :func:`paired_interval`."""
        return paired_interval(self.of(variant, value), self.of(baseline, value))

    @property
    def budget(self) -> str:
        """Seeds and machine in words."""
        return f'{number(len(self.seeds), "seed")}, {self.machine}'


def number(count: int, noun: str) -> str:
    return f'{count} {noun}' + ('' if count == 1 else 's')


def interval(values: tuple[float, float, float], digits: int = 2) -> str:
    """``+0.31 [-0.10, +0.62]``, bold where the interval leaves 0 out."""
    mean, low, high = values
    if math.isnan(low):
        return f'{mean:+.{digits}f} (one seed)'
    text = f'{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]'
    return f'**{text}**' if decided(values) else text


def decided(values: tuple[float, float, float]) -> bool:
    """Whether the interval does not hold 0."""
    _, low, high = values
    return low > 0 or high < 0


def verdict(found: dict[str, tuple[float, float, float]], than: str, seeds: int) -> str:
    """One sentence on differences by name, never more than the intervals say."""
    groups = dict(above=[], below=[], open=[])
    for name, values in found.items():
        side = 'above' if values[1] > 0 else 'below' if values[2] < 0 else 'open'
        groups[side].append(name)
    parts = [
        f'{side} {than}: {", ".join(groups[side])}'
        for side in ('above', 'below')
        if groups[side]
    ]
    if groups['open']:
        parts.append(f'not told apart from {than}: {", ".join(groups["open"])}')
    return prose(f'Of {number(seeds, "seed")}, ' + '; '.join(parts) + '.')


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def prose(text: str) -> str:
    return textwrap.fill(text, 88, break_on_hyphens=False, break_long_words=False)


def section(
    question: str,
    method: str,
    body: str,
    limits: str,
    commands: Sequence[str],
    picture: tuple[str, str] | None = None,
) -> str:
    """Question, method, evidence, limits and command, always in this order."""
    parts = [f'## {question}', prose(f'*Method.* {method}'), body]
    if picture is not None:
        parts.append(f'![{picture[1]}](_static/{picture[0]})')
    shell = '\n'.join(['```bash', *commands, '```'])
    parts += [prose(f'*What it does not show.* {limits}'), shell]
    return '\n\n'.join(parts)


# ---------------------------------------------------------------- CamVid


def miou(run: dict) -> float:
    return run['miou']


def camvid_heads(heads: Experiment) -> str:
    setting = heads.setting
    rows, to_control = [], {}
    for name in heads.variants:
        to_fcn = '' if name == 'FCN' else interval(heads.difference(name, 'FCN', miou))
        control = ''
        if name not in ('FCN', 'control'):
            to_control[name] = heads.difference(name, 'control', miou)
            control = interval(to_control[name])
        rows.append(
            [
                name,
                f'{heads.runs[name, heads.seeds[0]]["parameters"]:,}',
                f'{heads.mean(name, lambda run: run["train_cpu_seconds"]):.0f} s',
                f'{heads.mean(name, miou):.2f}',
                to_fcn,
                control,
            ]
        )
    header = ['head', 'parameters', 'training, CPU', 'mIoU', 'to FCN', 'to the control']
    classes = setting['classes']
    others = [name for name in heads.variants if name != 'FCN']
    by_class = [
        [
            name,
            f'{heads.mean("FCN", lambda run, i=i: run["iou"][i]):.1f}',
            *(
                interval(heads.difference(v, 'FCN', lambda run, i=i: run['iou'][i]), 1)
                for v in others
            ),
        ]
        for i, name in enumerate(classes)
    ]
    body = '\n\n'.join(
        [
            table(header, rows),
            verdict(to_control, 'the control', len(heads.seeds)),
            'By class, IoU of FCN and the difference of each head to it:',
            table(['class', 'FCN', *others], by_class),
        ]
    )
    height, width = setting['size']
    return section(
        'CamVid: does a block in the head help, or just more layers?',
        f'A ResNet-18 of a quarter of the width, output stride 16, is trained with an '
        f'FCN head for {setting["backbone_iterations"]:,} iterations and frozen; every '
        'head is then trained on its features for '
        f'{setting["iterations"]:,} iterations of {setting["batch_size"]} images at '
        f'{height}x{width}, and scored there on the 233 test scenes. The control has '
        f'two 1x1 convolutions in the place of the block. {heads.budget}.',
        body,
        'A frozen backbone never adapts to a block, and one backbone serves all seeds, '
        'which draw the heads and their batches alone. The maps have 12 x 15 '
        'positions, and the backbone sees much of the picture at each. The second '
        'table has many cells: of three seeds, one in four is bold by chance.',
        [
            'python tools/dataset_converters/camvid.py camvid.tar --out data/camvid',
            'python .dev_scripts/experiments/camvid_heads.py --seeds '
            + ' '.join(map(str, heads.seeds))
            + f' \\\n    --iterations {setting["iterations"]} --backbone-iterations '
            f'{setting["backbone_iterations"]}',
        ],
        ('findings_camvid.png', 'Differences in mIoU to FCN and to the control'),
    )


def mean_iou(values: Sequence[float]) -> float:
    return float(np.mean(values))


def blocks_of(inside: Experiment) -> list[str]:
    return [v for v in inside.variants if 'iou' in inside.runs[v, inside.seeds[0]]]


def camvid_dependence(inside: Experiment) -> str:
    rows, changes = [], {}
    for name in blocks_of(inside):
        chance = inside.mean(name, lambda run: run['dependence']['self_chance'])

        def part(key: str, name: str = name) -> float:
            return inside.mean(name, lambda run: run['dependence'][key]['mean'])

        cells = [
            f'{part("total_variation"):.3f}',
            f'{part("cosine_distance"):.3f}',
            f'{part("entropy"):.3f}',
            f'{part("self_mass") / chance:.2f}',
            f'{inside.mean(name, lambda run: mean_iou(run["iou"]["as trained"])):.2f}',
        ]
        for how in ABLATIONS:
            found = change(inside, name, how)
            changes.setdefault(how, {})[name] = found
            cells.append(interval(found))
        rows.append([name, *cells])
    header = ['head', 'total variation', 'cosine distance', 'entropy']
    header += ['own position / chance', 'mIoU']
    header += [
        f'A by {words}' if how != 'off' else 'block off'
        for how, words in ABLATIONS.items()
    ]
    lines = [table(header, rows)]
    for how, words in ABLATIONS.items():
        said = verdict(changes[how], 'the trained network', len(inside.seeds))
        action = dict(off='Block off').get(how, f'A by the {words}')
        said = ' '.join(said.split())
        lines.append(prose(f'*{action}.* {said}'))
    return section(
        'CamVid: does every query see the same, as GCNet says?',
        f'Of the trained heads above: total variation and cosine distance of rows of A '
        'from their mean row (0: all queries see the same), normalised entropy (1: '
        'the mean of all keys), the weight of the own position over that of even '
        'weights. Then the test mIoU with A replaced at test time, without training '
        f'again. {inside.budget}.',
        '\n\n'.join(lines),
        'A network trained with a mean row from the start could do better or worse '
        'than one whose rows are averaged afterwards; a network trained without a '
        'block differs from one whose block is taken out.',
        [
            'python .dev_scripts/experiments/camvid_analysis.py --seeds '
            + ' '.join(map(str, inside.seeds)),
            'python tools/analysis_tools/query_dependence.py CONFIG CHECKPOINT '
            '--ablate',
        ],
        (
            'findings_dependence.png',
            'Weight of the keys by distance, over even weights',
        ),
    )


def change(inside: Experiment, name: str, how: str) -> tuple[float, float, float]:
    """mIoU with A replaced, minus as trained."""
    return paired_interval(
        inside.of(name, lambda run: mean_iou(run['iou'][how])),
        inside.of(name, lambda run: mean_iou(run['iou']['as trained'])),
    )


def camvid_filters(inside: Experiment) -> str:
    rows = []
    for name in blocks_of(inside):
        cells = []
        for state in ('before', 'after'):
            shares = [
                inside.mean(name, lambda run, k=k, s=state: run['filter'][s][k])
                for k in ('smooth', 'passing', 'sharpen')
            ]
            cells.append(' / '.join(f'{100 * share:.0f}' for share in shares))
        for state in ('before', 'after'):
            tilt = inside.mean(name, lambda run, s=state: run['filter'][s]['tilt'])
            cells.append(f'{tilt:.3f}')
        moved = paired_interval(
            inside.of(name, lambda run: run['filter']['after']['tilt']),
            inside.of(name, lambda run: run['filter']['before']['tilt']),
        )
        rows.append([name, *cells, interval(moved, 3)])
    header = ['head', 'before: smooth / pass / sharpen, %', 'after', 'tilt before']
    header += ['tilt after', 'change']
    return section(
        'CamVid: do the filters smooth, sharpen or pass?',
        f'Gain of every output channel at the eigenvalues of A, measured on 15 test '
        f'scenes; tilt (-1 to 1) is the gain at the largest eigenvalue, the smoothest '
        f'component, against the mean gain over the spectrum. A channel smooths above '
        f'0.05, sharpens below -0.05. Before training: the same head as it was drawn. '
        f'{inside.budget}.',
        table(header, rows),
        'NL and RNL are A g alone and can only smooth: their tilt says how '
        'concentrated the spectrum is. The A of CGNL has one eigenvalue besides 0, of '
        'either sign: where it is negative, all channels count as sharpening. A random '
        'SNL filter smooths already, since ||W_0 - lambda W_1|| grows with |lambda|; '
        'only the change is learned. The gain is that of the linear part, before norm '
        'and ReLU.',
        [
            'python .dev_scripts/experiments/camvid_analysis.py --seeds '
            + ' '.join(map(str, inside.seeds)),
            'python tools/analysis_tools/filters.py CONFIG CHECKPOINT '
            '--picture filters.png',
        ],
        (
            'findings_filters.png',
            'Gain of the channels of NL and SNL, median and tenths, seed 0',
        ),
    )


def camvid_reach(inside: Experiment) -> str:
    rows, found = [], {}
    for name in inside.variants:

        def radius(run: dict, key: str = 'radius', share: str = '0.5') -> float:
            return run[key][share]

        cells = [
            f'{inside.mean(name, radius):.1f}',
            f'{inside.mean(name, lambda run: run["radius"]["0.9"]):.1f}',
        ]
        if name == 'FCN':
            cells += ['', '']
        else:
            found[name] = inside.difference(name, 'FCN', radius)
            cells.append(interval(found[name], 1))
            cells.append('')
        if 'radius_off' in inside.runs[name, inside.seeds[0]]:
            off = paired_interval(
                inside.of(name, radius),
                inside.of(name, lambda run: run['radius_off']['0.5']),
            )
            cells[-1] = interval(off, 1)
        rows.append([name, *cells])
    header = ['head', 'radius of 50 %, px', 'of 90 %, px', '50 %: to FCN']
    header.append('50 %: to the same network, block off')
    return section(
        'CamVid: does a block let the network see farther?',
        f'Effective receptive field: squared gradient of the centre of the logits with '
        f'respect to the picture, averaged over '
        f'{inside.setting["reach_images"]} test scenes of 180x240; the radius '
        f'that holds half of it. {inside.budget}.',
        table(header, rows) + '\n\n' + verdict(found, 'FCN', len(inside.seeds)),
        'The energy far away that a block adds is spread over many positions, and a '
        'radius of half of the energy hardly moves with it: see the picture. A '
        'gradient tells what small changes do, not what the network needs.',
        [
            'python .dev_scripts/experiments/camvid_analysis.py --seeds '
            + ' '.join(map(str, inside.seeds))
            + ' --pictures docs/en/_static',
            'python tools/analysis_tools/receptive_field.py CONFIG CHECKPOINT '
            '--picture reach.png',
        ],
        (
            'findings_reach.png',
            'Effective receptive field of the SNL network of seed 0, '
            'and with its block off',
        ),
    )


# ---------------------------------------------------------------- CIFAR


def top1(run: dict) -> float:
    return run['top1']


def cifar(grid: Experiment) -> str:
    setting = grid.setting
    blocks = list(dict.fromkeys(v.split()[0] for v in grid.variants if v != 'none'))
    rows, to_control = [], {}
    for block in blocks:
        for stage in (1, 2, 3):
            name = f'{block} stage {stage}'
            cells = ['']
            if block != 'control':
                to_control[name] = grid.difference(name, f'control stage {stage}', top1)
                cells = [interval(to_control[name], 1)]
            ablated = '-'
            if 'ablated' in grid.runs[name, grid.seeds[0]]:
                ablated = ', '.join(
                    f'{paired_mean(grid, name, how):+.1f}' for how in ABLATIONS
                )
            rows.append(
                [
                    block,
                    str(stage),
                    f'{grid.runs[name, grid.seeds[0]]["parameters"]:,}',
                    f'{grid.mean(name, lambda run: run["train_cpu_seconds"]):.0f} s',
                    f'{grid.mean(name, top1):.1f}',
                    interval(grid.difference(name, 'none', top1), 1),
                    *cells,
                    ablated,
                ]
            )
    plain = [
        'none',
        '',
        f'{grid.runs["none", grid.seeds[0]]["parameters"]:,}',
        f'{grid.mean("none", lambda run: run["train_cpu_seconds"]):.0f} s',
        f'{grid.mean("none", top1):.1f}',
        '',
        '',
        '-',
    ]
    header = ['block', 'stage', 'parameters', 'training, CPU', 'top-1', 'to none']
    header += ['to the control there', 'mean row, identity, off']
    train, test = setting['images']
    return section(
        'CIFAR-10: which block, in which stage?',
        f'PreResNet-20 of width {setting["width"]} on {setting["size"]}x'
        f'{setting["size"]} pixels, {setting["epochs"]} epochs on {train:,} images, '
        f'tested on {test:,}; one block at the end of a stage. The last column is the '
        f'change of top-1 with A replaced at test time, without an interval. '
        f'{grid.budget}.',
        table(header, [plain, *rows])
        + '\n\n'
        + verdict(to_control, 'the control', len(grid.seeds)),
        f'{setting["epochs"]} epochs on a tenth of the images at '
        f'{setting["size"]}x{setting["size"]} pixels are far from convergence: the '
        f'table compares how fast networks start to learn. Of {len(rows)} differences '
        'at 95 % some leave 0 out by chance.',
        [
            'python .dev_scripts/experiments/cifar_places.py '
            '--data cifar10_subset.npz \\\n    '
            f'--seeds {" ".join(map(str, grid.seeds))} '
            f'--epochs {setting["epochs"]} --size {setting["size"]} '
            f'--width {setting["width"]}',
        ],
        ('findings_cifar.png', 'Differences in top-1 to the network without a block'),
    )


def paired_mean(grid: Experiment, name: str, how: str) -> float:
    changed = grid.of(name, lambda run: run['ablated'][how])
    return float(np.mean(np.subtract(changed, grid.of(name, top1))))


# ---------------------------------------------------------------- order


ORDERS = {
    'in_order': 'in order',
    'reversed': 'reversed',
    'shuffled': 'shuffled',
    'repeated': 'one frame repeated',
}


def in_order(run: dict) -> float:
    return run['top1']['in_order']


def video(path: str) -> str:
    content = json.loads((FOLDER / f'{path}.json').read_text())
    rows, setting = [], content['setting']
    names = dict.fromkeys(run['variant'] for run in content['runs'])
    for name in names:
        order = Experiment(path, [name])
        run = order.runs[name, order.seeds[0]]
        cells = [f'{order.mean(name, in_order):.1f}', '']
        plain = name.split(' + ')[0]
        if plain != name and plain in names:
            both = Experiment(path, [name, plain])
            cells[1] = interval(both.difference(name, plain, in_order), 1)
        for how in list(ORDERS)[1:]:
            values = paired_interval(
                order.of(name, lambda run, how=how: run['top1'][how]),
                order.of(name, in_order),
            )
            cells.append(interval(values, 1))
        seconds = order.mean(name, lambda run: run['train_cpu_seconds'])
        rows.append(
            [
                name,
                run['set'],
                str(len(order.seeds)),
                f'{run["parameters"]:,}',
                f'{seconds:.0f} s',
                *cells,
            ]
        )
    sets = {'mini Something': 'sthv1', 'mini Kinetics': 'kinetics400'}
    clips = [
        f'{name}, {setting[key][0]} to train and {setting[key][1]} to test'
        for name, key in sets.items()
        if any(run['set'] == name for run in content['runs'])
    ]
    header = ['network', 'set', 'seeds', 'parameters', 'training, CPU']
    header += ['in order', 'to the network without blocks']
    header += [f'{words}: change' for words in list(ORDERS.values())[1:]]
    return section(
        'Mini video sets: what does a network know about order?',
        f'Networks trained on synthetic clips whose {setting["classes"]} classes '
        f'differ in the order of events, {setting["epochs"]} epochs; top-1 with the '
        'frames of every clip in another order at test time. Clips: '
        f'{"; ".join(clips)}. {content["machine"]}.',
        '\n\n'.join(
            [
                table(header, rows),
                'The same networks, frames in order, with A replaced at test time; '
                'changes of top-1:',
                video_ablations(path, names),
            ]
        ),
        'Synthetic clips, where a pair of classes is the same events in another order; '
        'a real set answers many of its classes by one frame. C2D pools pairs of '
        'neighbouring frames, which a shuffle parts and a reversal does not. Changed '
        'clips are also clips of a kind that the network never saw.',
        [
            'python .dev_scripts/experiments/video_order.py --seeds '
            + ' '.join(str(s) for s in sorted({r['seed'] for r in content['runs']})),
            'python tools/analysis_tools/temporal_order.py CONFIG CHECKPOINT',
        ],
    )


def video_ablations(path: str, names: Sequence[str]) -> str:
    rows = []
    for name in names:
        order = Experiment(path, [name])
        if not order.runs[name, order.seeds[0]]['ablated']:
            continue
        cells = [str(len(order.seeds)), f'{order.mean(name, in_order):.1f}']
        for how in ABLATIONS:
            values = paired_interval(
                order.of(name, lambda run, how=how: run['ablated'][how]),
                order.of(name, in_order),
            )
            cells.append(interval(values, 1))
        rows.append([name, *cells])
    header = ['network', 'seeds', 'as trained', 'A by mean row', 'A by identity']
    return table([*header, 'blocks off'], rows)


# ---------------------------------------------------------------- page


INTRODUCTION = """# Findings

What you get: what people ask about non-local blocks, answered by experiments that anybody can run
again. The numbers and tables of this page are written by
`.dev_scripts/experiments/findings_page.py` from the JSONs in `docs/en/findings`.

*Statistics.* Every difference is paired: the same seed, the same batches. After it, in
brackets, the 95 % interval of the percentile bootstrap over the seeds. It is bold where
the interval leaves 0 out; where it holds 0, nothing is claimed. An interval
of few seeds is too short: that of two or three is their range, so that it leaves 0 out
whenever all have one sign, which happens by chance in one of two, or four, cases. A bold
number of three seeds is a hint, not a proof. CPU seconds are of one thread, on a machine shared with
other work.

*Tools.* Each works on any model with blocks of this package, on CPU and GPU, without
ever building an N x N matrix.

| question | command | in Python, `nl_plugins.analysis` |
| --- | --- | --- |
| Is the attention the same for every query? Does the task notice? | `tools/analysis_tools/query_dependence.py CONFIG CHECKPOINT --ablate` | `query_dependence`, `ablate` |
| Does a filter smooth, sharpen or pass? | `tools/analysis_tools/filters.py CONFIG CHECKPOINT` | `channel_response`, `filter_shape` |
| How far does the network see? | `tools/analysis_tools/receptive_field.py CONFIG CHECKPOINT` | `effective_receptive_field` |
| What does it know about time? | `tools/analysis_tools/temporal_order.py CONFIG CHECKPOINT` | `frame_order` |

The first and the third also look into stock modules while `nl_plugins.accelerate` is
in force.

```python
import torch

from nl_plugins.analysis import ablate, query_dependence
from nl_plugins.blocks import SNLBlock

net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), SNLBlock(16)).eval()
images = torch.randn(4, 3, 34, 34)
print(f"{query_dependence(net, [images])['1'].total_variation:.3f}")
with torch.no_grad(), ablate(net, 'mean_row'):  # or 'identity', 'off'
    scores = net(images)
```"""  # noqa: E501


def finished(name: str) -> bool:
    """Whether an experiment has been run."""
    return (FOLDER / f'{name}.json').exists()


def page() -> str:
    """The whole page."""
    heads, inside = Experiment('camvid_heads'), Experiment('camvid_analysis')
    parts = [
        INTRODUCTION,
        camvid_heads(heads),
        camvid_dependence(inside),
        camvid_filters(inside),
        camvid_reach(inside),
    ]
    if finished('cifar_places'):
        parts.append(cifar(Experiment('cifar_places')))
    if finished('video_order'):
        parts.append(video('video_order'))
    return '\n\n'.join(parts) + '\n'


def draw() -> None:
    """The pictures that come from the JSONs."""
    import matplotlib

    matplotlib.use('Agg')
    heads, inside = Experiment('camvid_heads'), Experiment('camvid_analysis')
    others = [name for name in heads.variants if name != 'FCN']
    forest(
        'findings_camvid.png',
        {
            'to FCN': {v: heads.difference(v, 'FCN', miou) for v in others},
            'to the control': {
                v: heads.difference(v, 'control', miou)
                for v in others
                if v != 'control'
            },
        },
        'difference in mIoU',
    )
    distances(inside)
    if finished('cifar_places'):
        grid = Experiment('cifar_places')
        names = [v for v in grid.variants if v != 'none']
        forest(
            'findings_cifar.png',
            {'': {v: grid.difference(v, 'none', top1) for v in names}},
            'difference in top-1 to the network without a block',
        )


def forest(name: str, panels: dict, label: str) -> None:
    """Means with their intervals."""
    import matplotlib.pyplot as plt

    rows = max(len(found) for found in panels.values())
    figure, all_axes = plt.subplots(
        1,
        len(panels),
        figsize=(3.8 * len(panels) + 1, 0.28 * rows + 1.1),
        layout='constrained',
        squeeze=False,
    )
    for axes, (title, found) in zip(all_axes[0], panels.items()):
        for row, values in enumerate(found.values()):
            mean, low, high = values
            colour = 'tab:red' if decided(values) else 'tab:blue'
            axes.plot(mean, -row, 'o', color=colour)
            if not math.isnan(low):
                axes.plot([low, high], [-row, -row], color=colour)
        axes.axvline(0, color='0.6', linewidth=0.8)
        axes.set_yticks([-row for row in range(len(found))], list(found))
        axes.set_xlabel(label, fontsize='small')
        axes.set_title(title, fontsize='small')
    save(figure, name)


def distances(inside: Experiment) -> None:
    """Weight of the keys by distance, over that of even weights."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2), layout='constrained')
    for name in blocks_of(inside):
        ratio = np.mean(
            [
                np.divide(
                    inside.runs[name, seed]['dependence']['distance'],
                    inside.runs[name, seed]['dependence']['distance_chance'],
                )
                for seed in inside.seeds
            ],
            axis=0,
        )
        axes.plot((np.arange(len(ratio)) + 0.5) / len(ratio), ratio, '.-', label=name)
    axes.axhline(1, color='0.6', linewidth=0.8)
    axes.set_xlabel('distance from the query, share of the diagonal')
    axes.set_ylabel('weight / even weight')
    axes.legend(fontsize='small')
    save(figure, 'findings_dependence.png')


def save(figure, name: str) -> None:
    import matplotlib.pyplot as plt

    temporary = PICTURES / f'.{name}'
    figure.savefig(temporary, dpi=100, format='png')
    plt.close(figure)
    os.replace(temporary, PICTURES / name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--check', action='store_true', help='write nothing')
    args = parser.parse_args()
    text = page()
    if args.check:
        if not PAGE.exists() or PAGE.read_text(encoding='utf-8') != text:
            sys.exit(
                f'{PAGE} is not what the JSONs say: run {Path(__file__).name} without '
                '--check'
            )
        return
    draw()
    temporary = PAGE.with_suffix('.tmp')
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, PAGE)


if __name__ == '__main__':
    main()
