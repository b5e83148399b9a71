# Copyright (c) The nl_plugins authors. All rights reserved.
"""Inception-I3D weights, with or without non-local blocks, to ``InceptionI3D``.

Reads bare state dicts (the Kinetics weights of the PyTorch port) and the training
checkpoints of inception-I3D-NON-LOCAL, RGB and flow.
"""

import re

from conversion import Conversion, load_checkpoint, run, two_way_parser
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
STEM = 'conv3d_1a_7x7.conv3d.weight'
CLASSIFIER = 'conv3d_0c_1x1.conv3d'
_OUR_UNIT = re.compile(
    r'backbone\.(?P<unit>(?:conv3d|mixed)_.+)\.(?P<part>conv|bn)\.(?P<tensor>\w+)'
)
_UNIT = re.compile(r'(?P<unit>.+)\.(?P<part>conv3d|batch3d)\.(?P<tensor>\w+)')


def model_config(state_dict: dict[str, Tensor]) -> dict:
    """The model that a state dict belongs to: blocks, modality and classes."""
    require_keys(state_dict, (STEM, f'{CLASSIFIER}.weight'), 'Inception-I3D')
    non_local = any(f'{name}.theta.weight' in state_dict for name in NON_LOCAL)
    channels = state_dict[STEM].shape[1]
    modality = {3: '', 2: '_flow'}.get(channels)
    if modality is None:
        raise ValueError(
            f'the checkpoint takes {channels} channels; known are 3 (RGB) and 2 (flow)'
        )
    model = base_model(f'inception_i3d{"_nl" if non_local else ""}{modality}')
    model.cls_head.num_classes = state_dict[f'{CLASSIFIER}.weight'].shape[0]
    return model


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
    arguments = two_way_parser(__doc__).parse_args()
    state_dict = load_checkpoint(arguments.checkpoint).state_dict
    if arguments.back:
        finish_back(arguments, to_original(state_dict))
        return
    model = model_config(state_dict)
    finish(arguments, convert(state_dict), model)


if __name__ == '__main__':
    run(main)
