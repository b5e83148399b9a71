# Copyright (c) The nl_plugins authors. All rights reserved.
"""Inception-I3D weights, with or without non-local blocks, to ``InceptionI3D``.

Reads the Kinetics weights of hassony2/kinetics_i3d_pytorch and the training
checkpoints of inception-I3D-NON-LOCAL, RGB and flow. Their keys are the same, but the
former's batch norms have the epsilon 1e-3 of TensorFlow and its head averages windows
of two frames.
"""

import re
from pathlib import Path

from conversion import Checkpoint, Conversion, load_checkpoint, run, two_way_parser
from mmengine.config import Config
from torch import Tensor
from video_keys import (
    base_model,
    finish,
    finish_back,
    nl_block_name,
    nl_block_prefix,
    nl_part_name,
    require_keys,
)

# Original name of a non-local block -> the layer whose output it takes.
NON_LOCAL = {
    'NonLocalBlock_mixed_3': 'mixed_3c',
    'NonLocalBlock_mixed_4': 'mixed_4d',
}
# Repository -> epsilon of its batch norms.
KINETICS, NON_LOCAL_REPOSITORY = 'kinetics_i3d_pytorch', 'inception-I3D-NON-LOCAL'
NORM_EPS = {KINETICS: 1e-3, NON_LOCAL_REPOSITORY: 1e-5}
STEM = 'conv3d_1a_7x7.conv3d.weight'
CLASSIFIER = 'conv3d_0c_1x1.conv3d'
_OUR_UNIT = re.compile(
    r'backbone\.(?P<unit>(?:conv3d|mixed)_.+)\.(?P<part>conv|bn)\.(?P<tensor>\w+)'
)
_UNIT = re.compile(r'(?P<unit>.+)\.(?P<part>conv3d|batch3d)\.(?P<tensor>\w+)')


def find_origin(checkpoint: Checkpoint, given: str | None = None) -> str:
    """The repository whose network a checkpoint was trained with.

    Blocks, or the name of its architecture beside the weights, are
    inception-I3D-NON-LOCAL's. Norms whose weights are all exactly one come from
    TensorFlow, whose model has none.

    Raises:
        ValueError: If the file tells none and ``given`` is None, or has blocks and
            ``given`` is another.
    """
    scales = [
        value
        for key, value in checkpoint.state_dict.items()
        if key.endswith('.batch3d.weight')
    ]
    non_local = _has_blocks(checkpoint.state_dict)
    if non_local and given == KINETICS:
        raise ValueError(f'--origin {given}: its network has no non-local blocks')
    if given:
        return given
    if non_local or checkpoint.meta.get('arch') == 'i3d-18':
        return NON_LOCAL_REPOSITORY
    if scales and all(bool((scale == 1).all()) for scale in scales):
        return KINETICS
    raise ValueError(
        'the file does not tell with which epsilon its batch norms were trained: pass '
        f'--origin {KINETICS} (1e-3) or --origin {NON_LOCAL_REPOSITORY} (1e-5)'
    )


def _has_blocks(state_dict: dict[str, Tensor]) -> bool:
    return any(f'{name}.theta.weight' in state_dict for name in NON_LOCAL)


def model_config(
    state_dict: dict[str, Tensor], origin: str = NON_LOCAL_REPOSITORY
) -> dict:
    """The model that a state dict belongs to: blocks, modality, classes, epsilon."""
    require_keys(state_dict, (STEM, f'{CLASSIFIER}.weight'), 'Inception-I3D')
    non_local = _has_blocks(state_dict)
    channels = state_dict[STEM].shape[1]
    modality = {3: '', 2: '_flow'}.get(channels)
    if modality is None:
        raise ValueError(
            f'the checkpoint takes {channels} channels; known are 3 (RGB) and 2 (flow)'
        )
    model = base_model(f'inception_i3d{"_nl" if non_local else ""}{modality}')
    if origin == KINETICS:
        model.backbone.norm_cfg = dict(type='BN3d', requires_grad=True, eps=1e-3)
        model.cls_head = base_model('inception_i3d_nl').cls_head
    model.cls_head.num_classes = state_dict[f'{CLASSIFIER}.weight'].shape[0]
    return model


def check_eps(config: Path, origin: str) -> None:
    """Refuse a config whose batch norms have another epsilon than the origin's.

    Raises:
        ValueError: Naming both, and what to change.
    """
    backbone = Config.fromfile(config).model.backbone
    norm = backbone.get('backbone', backbone).get('norm_cfg') or {}
    found, wanted = norm.get('eps', 1e-5), NORM_EPS[origin]
    if found != wanted:
        (other,) = NORM_EPS.keys() - {origin}
        raise ValueError(
            f'{config} has batch norms of epsilon {found:g}, but the weights of '
            f'{origin} were trained with {wanted:g}: set norm_cfg=dict(type="BN3d", '
            f'eps={wanted:g}) in the backbone, or pass --origin {other} to use them '
            'with the other epsilon'
        )


def convert(state_dict: dict[str, Tensor]) -> Conversion:
    """Original names -> names of the recogniser."""
    conversion = Conversion(state_dict)
    for key in conversion.source:
        unit = _UNIT.fullmatch(key)
        owner = key.partition('.')[0]
        if key == f'{CLASSIFIER}.weight':
            conversion.move(
                key,
                'cls_head.fc_cls.weight',
                lambda weight: weight.flatten(1),
                'a linear layer; the frames are weighted by the head',
            )
        elif key == f'{CLASSIFIER}.bias':
            conversion.move(key, 'cls_head.fc_cls.bias')
        elif owner in NON_LOCAL:
            prefix = nl_block_prefix(f'backbone.{NON_LOCAL[owner]}')
            conversion.move(key, prefix + nl_block_name(key[len(owner) + 1 :]))
        elif unit:
            part = 'conv' if unit['part'] == 'conv3d' else 'bn'
            conversion.move(key, f'backbone.{unit["unit"]}.{part}.{unit["tensor"]}')
    return conversion


def to_original(state_dict: dict[str, Tensor]) -> Conversion:
    """The inverse of :func:`convert`."""
    conversion = Conversion(state_dict)
    hosts = {
        nl_block_prefix(f'backbone.{layer}'): f'{old}.'
        for old, layer in NON_LOCAL.items()
    }
    for key in conversion.source:
        prefix = next((prefix for prefix in hosts if key.startswith(prefix)), None)
        part = prefix and nl_part_name(key[len(prefix) :])
        unit = _OUR_UNIT.fullmatch(key)
        if key == 'cls_head.fc_cls.weight':
            conversion.move(
                key,
                f'{CLASSIFIER}.weight',
                lambda weight: weight[:, :, None, None, None],
                'a 1x1x1 convolution',
            )
        elif key == 'cls_head.fc_cls.bias':
            conversion.move(key, f'{CLASSIFIER}.bias')
        elif part:
            conversion.move(key, hosts[prefix] + part)
        elif unit:
            layer = dict(conv='conv3d', bn='batch3d')[unit['part']]
            conversion.move(key, f'{unit["unit"]}.{layer}.{unit["tensor"]}')
    return conversion


def main() -> None:
    """Command line."""
    parser = two_way_parser(__doc__)
    parser.add_argument(
        '--origin',
        choices=list(NORM_EPS),
        help='whose network the weights were trained with, which sets the epsilon of '
        'its norms (1e-3, 1e-5) and its head; default: what the file tells',
    )
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(arguments.checkpoint)
    state_dict = checkpoint.state_dict
    if arguments.back:
        finish_back(arguments, to_original(state_dict))
        return
    require_keys(state_dict, (STEM, f'{CLASSIFIER}.weight'), 'Inception-I3D')
    origin = find_origin(checkpoint, arguments.origin)
    if arguments.config:
        check_eps(arguments.config, origin)
    model = model_config(state_dict, origin)
    finish(arguments, convert(state_dict), model)
    print(f'weights of {origin}: the epsilon of its norms is {NORM_EPS[origin]:g}')


if __name__ == '__main__':
    run(main)
