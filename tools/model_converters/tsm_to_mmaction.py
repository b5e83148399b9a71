# Copyright (c) The nl_plugins authors. All rights reserved.
"""RNL-TSM, TSM-NL and TSM checkpoints (.pth.tar) to ``ResNetTSM`` and its blocks.

Reads the checkpoints of guoxih/region-based-non-local-network and of
mit-han-lab/temporal-shift-module. Blocks, gates, kernel sizes and shift are found from
the keys; ``--write-config`` writes them down, which matters for ResNet-101.
"""

import argparse
import re
import sys
from pathlib import Path

import torch
from conversion import Conversion, load_checkpoint, run, two_way_parser
from torch import Tensor
from video_keys import (
    base_model,
    conv_module_name,
    finish,
    finish_back,
    fold_bias,
    nl_block_name,
    nl_block_prefix,
    require_keys,
    residual_depth,
    torchvision_name,
)

from nl_plugins.blocks import ChannelGate, NLBlock, RNLBlock

ROOT = 'base_model.'
CLASSIFIERS = ('new_fc.', f'{ROOT}fc.', f'{ROOT}classifier.')
GATE = {
    'W_k': 'conv_mask.conv',
    'W_v1': 'squeeze',
    'bn1': 'norm',
    'W_v2': 'excite',
}
RNL = {'theta': 'theta.conv', 'W.0': 'conv_out.conv', 'W.1': 'conv_out.bn'}
TSM_NL = {'theta': 'theta', 'phi.0': 'phi', 'g.0': 'g', 'W.0': 'out', 'W.1': 'bn'}
_OURS = re.compile(
    r'backbone\.(layer\d+\.\d+)\.'
    rf'({ChannelGate._abbr_}|{RNLBlock._abbr_}|{NLBlock._abbr_})\.(.+)'
)
_INSERTED = re.compile(r'(layer\d+\.\d+)\.(cg|nl)\.(.+)')


def places(state_dict: dict[str, Tensor]) -> list[str]:
    """Residual blocks that are followed by a block or a gate, in order."""
    found = {
        match[1]
        for match in map(_INSERTED.match, (key[len(ROOT) :] for key in state_dict))
        if match
    }
    return sorted(found, key=lambda name: [int(n) for n in re.findall(r'\d+', name)])


def depthwise(weight: Tensor, mask: Tensor) -> Tensor:
    """The depthwise kernel (C', 1, *k) in a masked dense one (C', w, *k).

    Channel o keeps column ``o mod w``.

    Raises:
        ValueError: If the mask selects anything else.
    """
    inner, width = weight.shape[:2]
    channel = torch.arange(inner)
    diagonal = torch.zeros_like(mask)
    diagonal[channel, channel % width] = 1
    if not torch.equal(mask, diagonal):
        raise ValueError(
            'the mask of a region kernel does not select one input channel for each '
            'output channel: it is no depthwise convolution'
        )
    return (weight * mask)[channel, channel % width].unsqueeze(1)


def model_config(
    state_dict: dict[str, Tensor], num_segments: int, stock: bool = False
) -> dict:
    """The model that a state dict belongs to."""
    require_keys(state_dict, (f'{ROOT}conv1.weight',), 'TSM')
    model = base_model('rnl_tsm_r50')
    resnet = model.backbone.backbone
    resnet.depth = residual_depth(
        key[len(ROOT) :] for key in state_dict if key.startswith(ROOT)
    )
    resnet.num_segments = model.cls_head.num_segments = num_segments
    resnet.pretrained2d = False
    resnet.is_shift = any('.conv1.net.' in key for key in state_dict)
    classifier = next(
        (name for name in CLASSIFIERS if f'{name}weight' in state_dict), None
    )
    if classifier is None:
        raise ValueError(
            f'the checkpoint has no classifier, none of {list(CLASSIFIERS)}'
        )
    model.cls_head.num_classes = state_dict[f'{classifier}weight'].shape[0]
    inserts = []
    for place in places(state_dict):
        cfg = _blocks_at(f'{ROOT}{place}', state_dict)
        inserts.append(dict(after=place, num_segments=num_segments, cfg=cfg))
    if stock:
        resnet.update(_stock_options(inserts, resnet.depth))
    if stock or not inserts:
        model.backbone = resnet
    else:
        model.backbone.inserts = inserts
    return model


def _blocks_at(place: str, state_dict: dict[str, Tensor]) -> list[dict]:
    cfg = []
    if f'{place}.cg.W_k.weight' in state_dict:
        hidden, channels = state_dict[f'{place}.cg.W_v1.weight'].shape
        cfg.append(dict(type='ChannelGate', ndim=3, reduction=channels // hidden))
    theta = state_dict.get(f'{place}.nl.theta.weight')
    if theta is None:
        return cfg
    options = dict(ndim=3, reduction=theta.shape[1] // theta.shape[0])
    if f'{place}.nl.phi.0.weight' in state_dict:
        (block,) = base_model('nl_tsm_r50').backbone.inserts
        return [*cfg, dict(block.cfg, **options)]
    region = state_dict.get(f'{place}.nl.penta.weight')
    kernel = (1, 1, 1) if region is None else tuple(region.shape[2:])
    norm = f'{place}.nl.W.1.weight' in state_dict
    return [
        *cfg,
        dict(
            type='RNLBlock',
            kernel_size=kernel,
            norm_cfg=dict(type='BN') if norm else None,
            **options,
        ),
    ]


def _stock_options(inserts: list[dict], depth: int) -> dict:
    placed = {insert['after'] for insert in inserts}
    counts = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
    if any(len(i['cfg']) > 1 or i['cfg'][0]['type'] != 'NLBlock' for i in inserts):
        raise ValueError(
            "mmaction2's own ResNetTSM has no region-based blocks and no gates: "
            'convert without --stock'
        )
    return dict(
        non_local=tuple(
            tuple(int(f'layer{stage}.{i}' in placed) for i in range(count))
            for stage, count in enumerate(counts, 1)
        ),
        non_local_cfg=dict(
            sub_sample=True,
            use_scale=False,
            norm_cfg=dict(type='BN3d', requires_grad=True),
            mode='embedded_gaussian',
        ),
    )


def convert(
    state_dict: dict[str, Tensor],
    order: list[int] | None = None,
    stock: bool = False,
) -> Conversion:
    """Original names -> names of the recogniser.

    Args:
        state_dict (dict[str, Tensor]): The checkpoint without ``module.``.
        order (list[int], optional): Row of the source for each class.
        stock (bool): Name and fold for mmaction2's own non-local blocks.
    """
    conversion = Conversion(state_dict)
    biases = []
    for key in conversion.source:
        inserted = _INSERTED.fullmatch(key[len(ROOT) :])
        classifier = next((name for name in CLASSIFIERS if key.startswith(name)), None)
        resnet = conv_module_name(key[len(ROOT) :], keep_wrapper=stock)
        if classifier:
            conversion.move(
                key,
                f'cls_head.fc_cls.{key[len(classifier) :]}',
                None if order is None else lambda rows: rows[order],
                '' if order is None else 'classes reordered',
            )
        elif inserted and inserted[2] == 'cg':
            part, _, rest = inserted[3].partition('.')
            prefix = f'backbone.{inserted[1]}.{ChannelGate._abbr_}.'
            conversion.move(key, f'{prefix}{GATE.get(part, part)}.{rest}')
        elif inserted and f'{ROOT}{inserted[1]}.nl.phi.0.weight' in state_dict:
            biases += _move_nl(conversion, key, inserted, stock)
        elif inserted:
            _move_rnl(conversion, key, inserted)
        elif key.startswith(ROOT) and resnet:
            conversion.move(key, f'backbone.{resnet}')
    for bias, norm in biases:
        fold_bias(conversion, bias, norm)
    return conversion


def _move_nl(
    conversion: Conversion, key: str, inserted: re.Match, stock: bool
) -> list[tuple[str, str]]:
    part, _, rest = inserted[3].rpartition('.')
    host = f'backbone.{inserted[1]}'
    prefix = f'{host}.non_local_block.' if stock else nl_block_prefix(host)
    if stock and part == 'W.0' and rest == 'bias':
        return [(key, f'{prefix}conv_out.bn')]
    name = nl_block_name(f'{TSM_NL.get(part, part)}.{rest}', pooled_after=True)
    conversion.move(key, prefix + name)
    return []


def _move_rnl(conversion: Conversion, key: str, inserted: re.Match) -> None:
    prefix = f'backbone.{inserted[1]}.{RNLBlock._abbr_}.'
    part, _, rest = inserted[3].rpartition('.')
    if inserted[3] == 'penta.mask':
        conversion.drop(key, 'a constant')
    elif inserted[3] == 'penta.weight':
        weight = conversion.source[key]
        mask = conversion.source[f'{key[: -len("weight")]}mask']
        stray = (weight * (1 - mask)).abs().max().item()
        note = 'the diagonal of the dense kernel'
        if stray > 0:
            note += f'; weights up to {stray:g} outside it had no effect and are lost'
            print(f'warning: {key}: {note}', file=sys.stderr)
        conversion.move(
            key, f'{prefix}region.weight', lambda w: depthwise(w, mask), note
        )
    elif not part:
        raise ValueError(f'unknown key {key!r}')
    else:
        name = RNL.get(part, 'conv_out.conv' if part == 'W' else part)
        conversion.move(key, f'{prefix}{name}.{rest}')


def to_original(state_dict: dict[str, Tensor]) -> Conversion:
    """The inverse of :func:`convert` without ``stock``, classes in our order."""
    conversion = Conversion(state_dict)
    wrapped = {m[1] for m in map(_OURS.fullmatch, state_dict) if m}
    for key in conversion.source:
        inserted = _OURS.fullmatch(key)
        if key.startswith('cls_head.fc_cls.'):
            conversion.move(key, f'new_fc.{key.removeprefix("cls_head.fc_cls.")}')
        elif inserted:
            _move_back(conversion, key, inserted, state_dict)
        else:
            local = key.removeprefix('backbone.')
            wrapper = 'block.' if '.'.join(local.split('.')[:2]) in wrapped else ''
            name = torchvision_name(local, wrapper)
            if name:
                conversion.move(key, ROOT + name)
    return conversion


def _move_back(
    conversion: Conversion, key: str, inserted: re.Match, state_dict: dict
) -> None:
    host, kind, name = inserted.groups()
    prefix = f'{ROOT}{host}.{"cg" if kind == ChannelGate._abbr_ else "nl"}.'
    if name == 'region.weight':
        dense, mask = masked_dense(conversion.source[key])
        note = 'the diagonal of a dense kernel'
        conversion.move(key, f'{prefix}penta.weight', lambda _: dense, note)
        conversion.add(f'{prefix}penta.mask', mask, note)
        return
    parts = dict(GATE if kind == ChannelGate._abbr_ else RNL)
    if kind == NLBlock._abbr_:
        parts.update({'phi.0': 'phi.0.conv', 'g.0': 'g.0.conv'})
    norm = f'backbone.{host}.{kind}.conv_out.bn.weight'
    if kind == RNLBlock._abbr_ and norm not in state_dict:
        parts['W'] = parts.pop('W.0')  # without a norm, a bare convolution
    back = {ours: original for original, ours in parts.items()}
    part, _, rest = name.rpartition('.')
    if part in back:
        conversion.move(key, f'{prefix}{back[part]}.{rest}')


def masked_dense(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`depthwise`: dense kernel and mask, (C', w, *k) each."""
    inner = weight.shape[0]
    width = inner // max(inner // 32, 1)
    mask = weight.new_zeros(inner, width, *weight.shape[2:])
    channel = torch.arange(inner)
    mask[channel, channel % width] = 1
    return mask * weight, mask


def class_order(path: Path, num_classes: int) -> list[int]:
    """Row of an alphabetical classifier for each line of a list of class names.

    Raises:
        ValueError: If the names are not ``num_classes`` different ones.
    """
    if not path.is_file():
        raise ValueError(f'there is no list of class names {path}')
    names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if len(names) != num_classes or len(set(names)) != num_classes:
        raise ValueError(
            f'{path} holds {len(names)} class names, {len(set(names))} of them '
            f'different, but the classifier has {num_classes} rows'
        )
    row = {name: index for index, name in enumerate(sorted(names))}
    return [row[name] for name in names]


def arguments_parser() -> argparse.ArgumentParser:
    """Command line."""
    arguments = two_way_parser(__doc__)
    arguments.add_argument(
        '--num-segments',
        type=int,
        help='frames of a clip; default: the number behind "segment" in the file '
        'name, else 8',
    )
    arguments.add_argument(
        '--alphabetical-classes',
        type=Path,
        metavar='LABEL_MAP',
        help='a Something-Something V1 checkpoint, whose classes are sorted by name: '
        "reorder them to the lines of mmaction2's label map",
    )
    arguments.add_argument(
        '--stock',
        action='store_true',
        help="TSM-NL for mmaction2's own ResNetTSM(non_local=...) instead of NLBlock",
    )
    return arguments


def main() -> None:
    """Command line."""
    arguments = arguments_parser().parse_args()
    state_dict = load_checkpoint(arguments.checkpoint).state_dict
    if arguments.back:
        # The original's loader drops the first component of each name.
        finish_back(arguments, to_original(state_dict), 'module.')
        return
    segments = arguments.num_segments
    if segments is None:
        named = re.search(r'segment(\d+)', arguments.checkpoint.name)
        segments = int(named[1]) if named else 8
    model = model_config(state_dict, segments, arguments.stock)
    order = None
    if arguments.alphabetical_classes:
        order = class_order(arguments.alphabetical_classes, model.cls_head.num_classes)
    finish(arguments, convert(state_dict, order, arguments.stock), model)


if __name__ == '__main__':
    run(main)
