# Copyright (c) The nl_plugins authors. All rights reserved.
"""CamVid: what the blocks of the trained heads do.

    python .dev_scripts/experiments/camvid_analysis.py

For every network that ``camvid_heads.py`` left in its work folder: mIoU with the
affinity replaced, query dependence, filters before and after training, and reach.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from camvid_heads import (
    HEADS,
    ROOT,
    class_iou,
    features,
    load,
    logits_of,
    model_config,
    normalised,
)
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from PIL import Image
from runs import Runs
from torch import Tensor, nn

from nl_plugins.analysis import (
    ReceptiveField,
    Spectrum,
    ablate,
    channel_response,
    effective_receptive_field,
    filter_shape,
    graph_spectrum,
    query_dependence,
)
from nl_plugins.analysis.figures import draw_filters, draw_receptive_fields
from nl_plugins.files import open_whole


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data', type=Path, default='data/camvid')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--channels', type=int, default=64, help='of the heads')
    parser.add_argument(
        '--reach-images', type=int, default=16, help='evenly spaced, of the test set'
    )
    parser.add_argument(
        '--out', type=Path, default=ROOT / 'docs/en/findings/camvid_analysis.json'
    )
    parser.add_argument('--work-dir', type=Path, default='work_dirs/camvid_heads')
    parser.add_argument(
        '--pictures', type=Path, help='folder for reach and filters of the first seed'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    register_all_modules()
    init_default_scope('mmseg')
    MMLogger.get_instance('mmengine').setLevel('WARNING')
    images, truth = load(args.data, 'test')
    maps = None
    runs = Runs(args.out, dict(reach_images=args.reach_images, images=len(images)))
    for seed in args.seeds:
        for name in HEADS:
            path = args.work_dir / f'{name}-{seed}.pth'
            if runs.has(seed, name) or not path.exists():
                continue
            before, model = networks(args, name, seed, path)
            if maps is None:  # one backbone for all
                maps = features(model, images)
            runs.add(
                dict(
                    seed=seed,
                    variant=name,
                    **measured(args, before, model, images, maps, truth),
                )
            )
            print(runs.runs[-1], flush=True)
    if args.pictures is not None:
        draw(args, images)


def draw(args: argparse.Namespace, images: Tensor) -> None:
    """Receptive fields with and without a block, and filters before and after."""
    fields, filters = {}, {}
    for name in ('FCN', 'NL', 'SNL'):
        path = args.work_dir / f'{name}-{args.seeds[0]}.pth'
        if not path.exists():
            continue
        before, model = networks(args, name, args.seeds[0], path)
        if name != 'NL':
            fields[name] = reach(args, model, images)
        if name == 'FCN':
            continue
        maps, filters[name] = features(model, images[::16]), {}
        for state, head in (('before', before), ('after', model.decode_head)):
            filters[name][state] = curves(head, joint_spectrum(head, maps))
    with ablate(model, 'off'):
        fields['SNL, block off'] = reach(args, model, images)
    args.pictures.mkdir(parents=True, exist_ok=True)
    for name, picture in (
        ('findings_reach.png', draw_receptive_fields(fields)),
        ('findings_filters.png', draw_filters(filters)),
    ):
        few = Image.fromarray(picture).quantize(64, dither=Image.Dither.NONE)
        with open_whole(args.pictures / name) as file:
            few.save(file, 'PNG', optimize=True)


def curves(head: nn.Module, spectrum: Spectrum) -> tuple:
    """What :func:`draw_filters` takes for one state."""
    low, high = spectrum.values.min().item(), spectrum.values.max().item()
    eigenvalues = torch.linspace(low, high, 101, dtype=torch.double)
    gains = channel_response(head.nl_block, eigenvalues).double()
    return spectrum, eigenvalues, gains, filter_shape(head.nl_block, spectrum)


def reach(args: argparse.Namespace, model: nn.Module, images: Tensor) -> ReceptiveField:
    chosen = images[:: max(len(images) // args.reach_images, 1)][: args.reach_images]
    data = normalised(model, chosen).split(4)
    return effective_receptive_field(model, data, 'decode_head')


def networks(args, name: str, seed: int, path: Path) -> tuple[nn.Module, nn.Module]:
    """The head before training, and the whole network after."""
    config = model_config(args, name)
    torch.manual_seed(seed)
    head = MODELS.build(config['model']['decode_head'])
    head.init_weights()
    model = MODELS.build(config['model'])
    state = torch.load(path, weights_only=True)['state_dict']
    model.load_state_dict(state)
    return head.eval(), model.eval()


def measured(args, before, model, images: Tensor, maps: Tensor, truth: Tensor) -> dict:
    """All numbers of one network."""
    head = model.decode_head
    found = dict(radius=radii(reach(args, model, images)))
    block = getattr(head, 'nl_block', None)
    if block is None or type(block).__name__ == 'PointwiseBlock':
        return found
    found['iou'] = {}
    for how in ('mean_row', 'identity', 'off'):
        with ablate(head, how):
            found['iou'][how] = percents(class_iou(head, maps, truth))
    found['iou']['as trained'] = percents(class_iou(head, maps, truth))
    with ablate(head, 'off'):
        found['radius_off'] = radii(reach(args, model, images))
    (one,) = query_dependence(
        head, maps.split(16), num_rows=32, run=lambda part: logits_of(head, part)
    ).values()
    found['dependence'] = one.to_dict()
    found['filter'] = {}
    for state, each in (('before', before), ('after', head)):
        shape = filter_shape(each.nl_block, joint_spectrum(each, maps[::16]))
        found['filter'][state] = dict(
            smooth=shape.smooth,
            passing=shape.passing,
            sharpen=shape.sharpen,
            tilt=shape.tilt.mean().item(),
        )
    return found


def percents(values) -> list[float]:
    return [round(100 * float(value), 3) for value in values]


def radii(field) -> dict[str, float]:
    return {str(share): round(field.radius(share), 2) for share in (0.5, 0.9)}


@torch.no_grad()
def joint_spectrum(head: nn.Module, maps: Tensor) -> Spectrum:
    """The eigenvalues of the graphs of several images."""
    graphs = [head.nl_block.affinity(head.convs[0](part)) for part in maps.split(1)]
    parts = [graph_spectrum(graph) for graph in graphs]
    weights = torch.cat([part.weights for part in parts]) / len(parts)
    return Spectrum(torch.cat([p.values for p in parts]), weights, True)


if __name__ == '__main__':
    main()
