# Copyright (c) The nl_plugins authors. All rights reserved.
"""NL-I3D and NL-C2D ResNets of four origins to ``NLResNet3d`` and ``NLBlock``.

Reads the PyTorch port Tushar-N/pytorch-resnet3d, Caffe2 blobs (.pkl) of
video-nonlocal-net, affine models included, SlowFast checkpoints and tea1528's 3D
ResNet-50. Depth, temporal kernels and blocks are found from the keys. The strides
and pools of the stem are not in a checkpoint: choose the config accordingly. Affine
models are taken for the long-range ones, with groups of four frames in res3.
"""

import re

import torch
from caffe2_blobs import load_blobs
from conversion import Conversion, load_checkpoint, run, two_way_parser
from torch import Tensor
from video_keys import (
    base_model,
    conv_module_name,
    finish,
    finish_back,
    nl_block_name,
    nl_block_prefix,
    nl_part_name,
    require_keys,
    residual_depth,
    torchvision_name,
)

from nl_plugins.blocks import NLBlock

# Each origin's names are first read as those of the PyTorch port.
_CAFFE2_PARTS = {
    'w': 'weight',
    'b': 'bias',
    'bn_s': 'bn.weight',
    'bn_b': 'bn.bias',
    'bn_rm': 'bn.running_mean',
    'bn_riv': 'bn.running_var',  # the variance, whatever its name says
}
_CAFFE2_RESIDUAL = re.compile(
    r'res(\d)_(\d+)_branch(1|2[abc])_(w|bn_s|bn_b|bn_rm|bn_riv)'
)
_CAFFE2_NL = re.compile(
    r'nonlocal_conv(\d)_(\d+)_(?:(theta|phi|g|out)_)?(w|b|bn_s|bn_b|bn_rm|bn_riv)'
)
_CAFFE2_STEM = re.compile(r'(?:conv1_(w)|res_conv1_(bn_s|bn_b|bn_rm|bn_riv))')
_CAFFE2_TRAINING = re.compile(r'.*_momentum|lr|model_iter')
_SLOWFAST_RESIDUAL = re.compile(
    r's(\d)\.pathway0_res(\d+)\.(?:branch2\.([abc])|branch(1))(_bn)?\.(\w+)'
)
_SLOWFAST_NL = re.compile(
    r's(\d)\.pathway0_nonlocal(\d+)\.(?:conv_(theta|phi|g|out)|bn|norm)\.(\w+)'
)
_SLOWFAST_STEM = re.compile(r's1\.pathway0_stem\.(conv|bn)\.(\w+)')
_PORT_NL = re.compile(r'(layer\d\.\d+)\.nl\.(.+)')
_OUR_NL = re.compile(rf'backbone\.(layer\d\.\d+)\.{NLBlock._abbr_}\.(.+)')
_TEA_NL = re.compile(r'(layer3)\.5\.(theta|phi|g|W_z\.0|W_z\.1)\.(\w+)')


def caffe2_name(blob: str) -> str | None:
    """A Caffe2 blob's name in the PyTorch port; None for the state of training.

    Raises:
        ValueError: If no rule knows it.
    """
    if match := _CAFFE2_STEM.fullmatch(blob):
        part = _CAFFE2_PARTS[match[1] or match[2]]
        return 'conv1.weight' if match[1] else f'bn1.{part[3:]}'
    if match := _CAFFE2_RESIDUAL.fullmatch(blob):
        stage, block, branch, part = match.groups()
        where = f'layer{int(stage) - 1}.{block}'
        part = _CAFFE2_PARTS[part]
        norm = part.startswith('bn.')
        if branch == '1':
            return f'{where}.downsample.{int(norm)}.{part.removeprefix("bn.")}'
        number = 'abc'.index(branch[1]) + 1
        if norm:
            return f'{where}.bn{number}.{part.removeprefix("bn.")}'
        return f'{where}.conv{number}.{part}'
    if match := _CAFFE2_NL.fullmatch(blob):
        stage, block, projection, part = match.groups()
        where = f'layer{int(stage) - 1}.{block}.nl'
        part = _CAFFE2_PARTS[part]
        return f'{where}.{projection}.{part}' if projection else f'{where}.{part}'
    if blob in ('pred_w', 'pred_b'):
        return f'fc.{_CAFFE2_PARTS[blob[-1]]}'
    if _CAFFE2_TRAINING.fullmatch(blob):
        return None
    raise ValueError(f'unknown blob {blob!r}: it is another network than assumed')


def slowfast_name(key: str) -> str | None:
    """A SlowFast key's name in the PyTorch port; None for others."""
    if match := _SLOWFAST_STEM.fullmatch(key):
        return f'{match[1]}1.{match[2]}'
    if match := _SLOWFAST_RESIDUAL.fullmatch(key):
        stage, block, letter, shortcut, norm, tensor = match.groups()
        where = f'layer{int(stage) - 1}.{block}'
        if shortcut:
            return f'{where}.downsample.{int(bool(norm))}.{tensor}'
        number = 'abc'.index(letter) + 1
        return f'{where}.{"bn" if norm else "conv"}{number}.{tensor}'
    if match := _SLOWFAST_NL.fullmatch(key):
        stage, block, projection, tensor = match.groups()
        return f'layer{int(stage) - 1}.{block}.nl.{projection or "bn"}.{tensor}'
    if key.startswith('head.projection.'):
        return f'fc.{key.removeprefix("head.projection.")}'
    return None


def tea_name(key: str) -> str:
    """A key of tea1528's network: its block is ``layer3.5``, before the last one."""
    if match := _TEA_NL.fullmatch(key):
        part = {'W_z.0': 'out', 'W_z.1': 'bn'}.get(match[2], match[2])
        return f'layer3.4.nl.{part}.{match[3]}'
    return re.sub(r'^layer3\.6\.', 'layer3.5.', key)


def port_names(state_dict: dict[str, Tensor]) -> dict[str, str | None]:
    """Each key's name in the PyTorch port; None: state of training.

    Raises:
        ValueError: If the keys are of none of the four origins.
    """
    if 'conv1_w' in state_dict:
        return {key: caffe2_name(key) for key in state_dict}
    if any(key.startswith('s1.pathway0_stem.') for key in state_dict):
        return {key: slowfast_name(key) or key for key in state_dict}
    require_keys(
        state_dict, ('conv1.weight', 'fc.weight'), '3D ResNet of a known origin'
    )
    if 'layer3.5.W_z.0.weight' in state_dict:
        return {key: tea_name(key) for key in state_dict}
    return {key: key for key in state_dict}


def model_config(state_dict: dict[str, Tensor]) -> dict:
    """The model that a state dict belongs to; its stem is that of 32x2 frames."""
    names = port_names(state_dict)
    port = {names[key]: value for key, value in state_dict.items() if names[key]}
    require_keys(port, ('conv1.weight', 'fc.weight'), '3D ResNet with a classifier')
    if port['conv1.weight'].ndim != 5:
        raise ValueError(
            'the checkpoint is a ResNet for images: torchvision_to_mmaction.py turns '
            'it into the initialisation of a video network'
        )
    tea = 'layer3.5.W_z.0.weight' in state_dict
    model = base_model('c2d_r50_tea1528_legacy' if tea else 'nl_i3d_r50')
    resnet = model.backbone.backbone
    resnet.depth = residual_depth(port)
    if tea:
        resnet.legacy = False
    elif port['conv1.weight'].shape[2] == 1:
        resnet.type, resnet.inflate = 'C2DResNet3d', 0
    else:
        resnet.inflate = _temporal_kernels(port)
    model.cls_head.num_classes = port['fc.weight'].shape[0]

    after = [m[1] for m in map(_PORT_NL.match, port) if m and m[2] == 'theta.weight']
    if not after:
        model.backbone = resnet
        return model
    (insert,) = model.backbone.inserts
    norms = {f'{place}.nl.bn.weight' in port for place in after}
    if norms == {False}:  # fine-tuned with a zero output convolution instead
        insert.cfg.norm_cfg = None
    insert.after = after
    if 'bn1.running_mean' not in port:
        # Affine models are the long-range ones: in res3 groups of four frames.
        grouped = dict(insert.cfg, type='GroupedNLBlock', group_size=4)
        near = [place for place in after if place.startswith('layer2.')]
        far = [place for place in after if place not in near]
        places = ((near, grouped), (far, insert.cfg))
        model.backbone.inserts = [dict(after=a, cfg=c) for a, c in places if a]
    return model


def _temporal_kernels(port: dict[str, Tensor]) -> tuple[tuple[int, ...], ...]:
    stages = []
    for stage in range(1, 5):
        kernels, block = [], 0
        while (key := f'layer{stage}.{block}.conv1.weight') in port:
            kernels.append(int(port[key].shape[2] > 1))
            block += 1
        stages.append(tuple(kernels))
    return tuple(stages)


def convert(state_dict: dict[str, Tensor]) -> Conversion:
    """Original names -> names of the recogniser."""
    conversion = Conversion(state_dict)
    for key, name in port_names(state_dict).items():
        if name is None:
            conversion.drop(key, 'state of training')
        elif target := target_name(name):
            conversion.move(key, target)
    _complete_affine(conversion)
    return conversion


def target_name(name: str) -> str | None:
    """A name of the PyTorch port in the recogniser; None if it is not one."""
    if name.startswith('fc.'):
        return f'cls_head.fc_cls.{name.removeprefix("fc.")}'
    if match := _PORT_NL.fullmatch(name):
        return nl_block_prefix(f'backbone.{match[1]}') + nl_block_name(match[2])
    resnet = conv_module_name(name)
    return resnet and f'backbone.{resnet}'


def _complete_affine(conversion: Conversion) -> None:
    """Batch norms that compute x * weight + bias, for models without statistics."""
    for key, bias in list(conversion.target.items()):
        prefix = key.removesuffix('bn.bias')
        if prefix == key or f'{prefix}bn.running_mean' in conversion.target:
            continue
        why = 'the norm is a fixed affine map'
        conversion.add(f'{prefix}bn.running_mean', torch.zeros_like(bias), why)
        variance = torch.full_like(bias, 1 - 1e-5)  # 1 with the norm's epsilon
        conversion.add(f'{prefix}bn.running_var', variance, why)


def to_original(state_dict: dict[str, Tensor]) -> Conversion:
    """Names of the recogniser -> names of the PyTorch port."""
    conversion = Conversion(state_dict)
    for key in conversion.source:
        block = _OUR_NL.fullmatch(key)
        part = block and nl_part_name(block[2])
        name = torchvision_name(key.removeprefix('backbone.'))
        if key.startswith('cls_head.fc_cls.'):
            conversion.move(key, f'fc.{key.removeprefix("cls_head.fc_cls.")}')
        elif part:
            conversion.move(key, f'{block[1]}.nl.{part}')
        elif name:
            conversion.move(key, name)
    return conversion


def main() -> None:
    """Command line."""
    arguments = two_way_parser(__doc__).parse_args()
    if arguments.checkpoint.suffix == '.pkl':
        state_dict = load_blobs(arguments.checkpoint)
    else:
        state_dict = load_checkpoint(arguments.checkpoint).state_dict
    if arguments.back:
        finish_back(arguments, to_original(state_dict))
        return
    model = model_config(state_dict)
    finish(arguments, convert(state_dict), model)


if __name__ == '__main__':
    run(main)
