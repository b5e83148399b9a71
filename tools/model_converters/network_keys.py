# Copyright (c) The nl_plugins authors. All rights reserved.
"""Whole classification networks of the originals and ours, both ways.

The originals put a block between two residual blocks of a stage and shift the
indices of those behind it; ours hang it below the residual block that it follows.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from block_keys import original_block, our_block
from conversion import Conversion
from torch import Tensor

_PLACE = re.compile(r'(layer\d)\.(\d+)\.(.+)')
_RESNETS = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}


@dataclass
class Options:
    """What the keys of a checkpoint may leave open.

    Attributes:
        block_type (str, optional): Of blocks that share their keys: nl, ns, a2; cgnl,
            cgnlx.
        mode (str, optional): Pairwise function of a tea1528 or AlexHex7 block.
        affinity (dict): ``affinity`` and ``symmetric`` of a block of the SNL
            repository; what is missing is as its networks have it without flags:
            symmetric and normalised on PreResNet and for snl, elsewhere softmax, and
            for a2 the product without a softmax.
        num_classes (int, optional): Outputs to keep of a 1000-way PreResNet.
    """

    block_type: str | None = None
    mode: str | None = None
    affinity: dict = field(default_factory=dict)
    num_classes: int | None = None


@dataclass
class Converted:
    """A converted network: its tensors, report and model config."""

    conversion: Conversion
    model: dict
    origin: str


def to_ours(state_dict: Mapping[str, Tensor], options: Options) -> Converted:
    """Original names -> a classifier of mmpretrain with our blocks.

    Args:
        state_dict (Mapping[str, Tensor]): Without the prefix ``module.``.
        options (Options): What the keys leave open.

    Returns:
        Converted: Its ``model`` is a config that the tensors fit.

    Raises:
        ValueError: If the network is none of the originals', or an option is missing.
    """
    shapes = {key: tuple(value.shape) for key, value in state_dict.items()}
    conversion = Conversion(state_dict)
    if 'linear.weight' in shapes and 'layer3.0.conv1.weight' in shapes:
        origin, classifier = 'CIFARResNet', 'linear'
    elif 'conv.weight' in shapes and 'fc2.weight' in shapes:
        origin, classifier = 'PreResNet', 'fc2'
    elif 'fc.weight' in shapes and 'layer4.0.conv1.weight' in shapes:
        origin, classifier = 'ResNet', 'fc'
    else:
        raise ValueError(
            'the checkpoint is no CIFAR ResNet, PreResNet or torchvision ResNet: its '
            f'keys begin with {sorted(shapes)[:4]}'
        )
    counts, inserts = _place_stages(conversion, shapes, options, origin)
    head = _place_classifier(conversion, shapes, classifier, options)
    for key in conversion.under(''):
        conversion.move(key, f'backbone.{key}')
    backbone = _backbone(origin, counts, shapes)
    if inserts:
        backbone = dict(type='NonLocalBackbone', backbone=backbone, inserts=inserts)
    model = dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=head,
    )
    return Converted(conversion, model, origin)


def _place_stages(
    conversion: Conversion, shapes: Mapping, options: Options, origin: str
) -> tuple[dict[str, int], list[dict]]:
    """Move residual blocks and inserted blocks.

    Returns:
        tuple: Residual blocks of each stage, and ``inserts`` of NonLocalBackbone.
    """
    places: dict[str, dict[int, dict[str, tuple]]] = defaultdict(dict)
    for key, shape in shapes.items():
        match = _PLACE.fullmatch(key)
        if match:
            stage, index, rest = match.groups()
            places[stage].setdefault(int(index), {})[rest] = shape
    counts, inserts = {}, []
    for stage, modules in sorted(places.items()):
        residual = -1
        for index in sorted(modules):
            old = f'{stage}.{index}.'
            if 'conv1.weight' in modules[index]:
                residual += 1
                conversion.move_prefix(old, f'backbone.{stage}.{residual}.')
                continue
            if residual < 0:
                raise ValueError(
                    f'{stage}.{index} is a non-local block before the first residual '
                    'block of its stage, a place that no original uses'
                )
            affinity = options.affinity
            if origin == 'PreResNet' and 'affinity' not in affinity:
                affinity = dict(affinity='sym_norm')  # its flags are without effect
            block = original_block(
                modules[index], options.block_type, options.mode, affinity
            )
            after = f'{stage}.{residual}'
            name = ABBREVIATIONS[block.cfg['type']]
            block.forward(conversion, old, f'backbone.{after}.{name}.')
            inserts.append(dict(after=after, cfg=block.cfg))
        counts[stage] = residual + 1
    return counts, inserts


# `_abbr_` of our blocks: what a block is called below the module that it follows.
ABBREVIATIONS = {
    'A2Block': 'a2_block',
    'ANLBlock': 'anl_block',
    'CCBlock': 'cc_block',
    'CGNLBlock': 'cgnl_block',
    'CayleyNLBlock': 'cayley_nl_block',
    'ChebyshevNLBlock': 'chebyshev_nl_block',
    'DNLBlock': 'dnl_block',
    'NLBlock': 'nl_block',
    'NSBlock': 'ns_block',
    'SNLBlock': 'snl_block',
}


def _place_classifier(
    conversion: Conversion, shapes: Mapping, name: str, options: Options
) -> dict:
    outputs, width = shapes[f'{name}.weight']
    num_classes = options.num_classes or outputs
    if name == 'fc2' and 'fc.weight' in shapes:
        # The SNL training script attaches a stem and a classifier that no forward
        # pass uses; the classifier tells the number of classes.
        num_classes = options.num_classes or shapes['fc.weight'][0]
        unused = 'attached by the training script, not used by the network'
        conversion.drop('fc.weight', unused)
        conversion.drop('fc.bias', unused)
        if 'conv1.weight' in shapes:
            conversion.drop('conv1.weight', unused)
    if num_classes > outputs:
        raise ValueError(
            f'--num-classes {num_classes}: the checkpoint has only {outputs} outputs'
        )
    note = '' if num_classes == outputs else f'the first {num_classes} of {outputs}'
    for kind in ('weight', 'bias'):
        conversion.move(
            f'{name}.{kind}',
            f'head.fc.{kind}',
            (lambda value: value[:num_classes].clone()) if note else None,
            note,
        )
    head = dict(type='LinearClsHead', num_classes=num_classes, in_channels=width)
    if name != 'linear':
        head.update(type='LinearDropoutClsHead', dropout_ratio=0.5)
    return head


def _backbone(origin: str, counts: Mapping[str, int], shapes: Mapping) -> dict:
    n = tuple(counts.values())
    if origin == 'CIFARResNet':
        cfg = dict(type=origin, depth=6 * n[0] + 2)
        if 'layer2.0.shortcut.0.weight' in shapes:
            cfg['shortcut'] = 'B'
        return cfg
    bottleneck = 'layer1.0.conv3.weight' in shapes
    if origin == 'PreResNet':
        depths = {(False, 3): 20, (True, 9): 56, (True, 18): 110}
        depth = depths.get((bottleneck, n[0]))
    else:
        depth = _RESNETS.get((bottleneck, n))
    if depth is None:
        kind = 'bottlenecks' if bottleneck else 'basic blocks'
        raise ValueError(
            f'{origin} with {list(n)} {kind} a stage is none of the originals'
        )
    if origin == 'PreResNet':
        return dict(type=origin, depth=depth)
    small = shapes['conv1.weight'][2] == 3
    kind = 'ResNet_CIFAR' if small else 'ResNet'
    return dict(type=kind, depth=depth, zero_init_residual=False)


def to_original(state_dict: Mapping[str, Tensor]) -> Converted:
    """A classifier of ours -> the original's names, with its shifted indices.

    Args:
        state_dict (Mapping[str, Tensor]): Keys ``backbone.*`` and ``head.fc.*``.

    Returns:
        Converted: Its ``model`` is empty.

    Raises:
        ValueError: If the network or a block has no original.
    """
    conversion = Conversion(state_dict)
    shapes = {key: tuple(value.shape) for key, value in state_dict.items()}
    if 'head.fc.weight' not in shapes or 'backbone.layer1.0.conv1.weight' not in shapes:
        raise ValueError(
            'the checkpoint is no classifier of this package with a CIFARResNet, '
            f'PreResNet or ResNet: its keys begin with {sorted(shapes)[:4]}'
        )
    if 'backbone.conv.weight' in shapes:
        origin, classifier = 'PreResNet', 'fc2'
    elif 'backbone.layer4.0.conv1.weight' in shapes:
        origin, classifier = 'ResNet', 'fc'
    else:
        origin, classifier = 'CIFARResNet', 'linear'
    hosts = _blocks_below(shapes)
    for stage in sorted({key.split('.')[1] for key in shapes if '.layer' in key}):
        prefix = f'backbone.{stage}.'
        indices = {int(k.split('.')[2]) for k in shapes if k.startswith(prefix)}
        shift = 0
        for index in sorted(indices):
            residual = f'{stage}.{index + shift}.'
            for name, told in hosts.get((stage, index), {}).items():
                shift += 1
                our_block(told, name).backward(
                    conversion, f'{stage}.{index + shift}.', f'{prefix}{index}.{name}.'
                )
            conversion.move_prefix(f'{prefix}{index}.', residual)
    _place_back_classifier(conversion, shapes, classifier)
    conversion.move_prefix('backbone.', '')
    return Converted(conversion, {}, origin)


def _blocks_below(shapes: Mapping) -> dict[tuple[str, int], dict[str, dict]]:
    """(stage, index) -> block name -> its keys without prefix, and their shapes."""
    hosts: dict[tuple[str, int], dict[str, dict]] = defaultdict(dict)
    for key, shape in shapes.items():
        match = re.fullmatch(r'backbone\.(layer\d)\.(\d+)\.(\w+_block)\.(.+)', key)
        if match:
            stage, index, name, rest = match.groups()
            hosts[stage, int(index)].setdefault(name, {})[rest] = shape
    return hosts


def _place_back_classifier(conversion: Conversion, shapes: Mapping, name: str) -> None:
    outputs, width = shapes['head.fc.weight']
    if name != 'fc2' or outputs == 1000:
        conversion.move_prefix('head.fc.', f'{name}.')
        return
    # The original always has 1000 outputs; those it lacks never win.
    missing = 1000 - outputs
    note = f'{missing} outputs added that never win'
    for kind, value in (('weight', 0.0), ('bias', -1e4)):
        conversion.move(
            f'head.fc.{kind}',
            f'fc2.{kind}',
            lambda rows, value=value: _pad_rows(rows, missing, value),
            note,
        )


def _pad_rows(rows: Tensor, count: int, value: float) -> Tensor:
    padding = rows.new_full((count, *rows.shape[1:]), value)
    return torch.cat([rows, padding])
