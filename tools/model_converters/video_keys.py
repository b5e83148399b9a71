# Copyright (c) The nl_plugins authors. All rights reserved.
"""What the converters of video networks share: names, models, the last steps."""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from conversion import (
    Conversion,
    load_strictly,
    save_checkpoint,
    save_report,
    write_config,
)
from mmengine.config import Config
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the package beside these tools, installed or not

import nl_plugins  # noqa: E402, F401  registers the blocks and repairs mmaction2
from nl_plugins.blocks import NLBlock  # noqa: E402

MODELS_FOLDER = ROOT / 'configs/recognition/_base_/models'
DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}

# torchvision's name of a layer in or outside a residual block.
_RESNET = re.compile(
    r'(?P<where>(?:layer\d+\.\d+\.)?)(?P<wrapper>(?:block\.)?)'
    r'(?P<layer>conv\d|bn\d|downsample\.[01])\.(?P<rest>[\w.]+)'
)
_CONV_MODULE = re.compile(
    r'(?P<where>(?:layer\d+\.\d+\.)?)(?P<layer>conv\d|downsample)\.'
    r'(?P<part>conv|bn)\.(?P<rest>[\w.]+)'
)
_NL_PART = re.compile(r'(theta|phi|g|conv_out)(?:\.0)?\.(conv|bn)\.(\w+)')
_BLOCK = re.compile(r'layer(\d+)\.(\d+)\.')


def conv_module_name(name: str, keep_wrapper: bool = False) -> str | None:
    """A key of a torchvision ResNet as a key of ``ConvModule``s; None for others.

    ``layer1.0.conv2.weight`` -> ``layer1.0.conv2.conv.weight``, ``bn1.bias`` ->
    ``conv1.bn.bias``, ``downsample.0`` -> ``downsample.conv``, ``downsample.1`` ->
    ``downsample.bn``. The wrapper ``block.`` of TSM's non-local blocks goes away unless
    ``keep_wrapper``, its shift ``.net`` stays.
    """
    match = _RESNET.fullmatch(name)
    if match is None:
        return None
    layer = match['layer']
    if layer.startswith('downsample'):
        layer = 'downsample.conv' if layer.endswith('0') else 'downsample.bn'
    elif layer.startswith('conv'):
        layer = f'{layer}.conv'
    else:
        layer = f'{layer.replace("bn", "conv")}.bn'
    wrapper = match['wrapper'] if keep_wrapper else ''
    return f'{match["where"]}{wrapper}{layer}.{match["rest"]}'


def nl_block_name(name: str, pooled_after: bool = False) -> str:
    """``theta|phi|g|out|bn`` + rest of a non-local block -> the name in ``NLBlock``.

    ``pooled_after``: keys and values are pooled behind their projections, which then
    are the first layers of a Sequential.
    """
    part, _, rest = name.partition('.')
    if part == 'out':
        return f'conv_out.conv.{rest}'
    if part == 'bn':
        return f'conv_out.bn.{rest}'
    index = '.0' if pooled_after and part in ('phi', 'g') else ''
    return f'{part}{index}.conv.{rest}'


def torchvision_name(name: str, wrapper: str = '') -> str | None:
    """The inverse of :func:`conv_module_name`; ``wrapper`` is put before the layer."""
    match = _CONV_MODULE.fullmatch(name)
    if match is None:
        return None
    layer, part = match['layer'], match['part']
    if layer == 'downsample':
        layer = f'downsample.{int(part == "bn")}'
    elif part == 'bn':
        layer = layer.replace('conv', 'bn')
    return f'{match["where"]}{wrapper}{layer}.{match["rest"]}'


def nl_part_name(name: str) -> str | None:
    """The inverse of :func:`nl_block_name`."""
    match = _NL_PART.fullmatch(name)
    if match is None:
        return None
    part = dict(conv='out', bn='bn')[match[2]] if match[1] == 'conv_out' else match[1]
    return f'{part}.{match[3]}'


def fold_bias(conversion: Conversion, bias: str, norm: str) -> None:
    """Put a convolution's bias into the running mean of the norm behind it.

    (x + b) - mean = x - (mean - b): exact in evaluation, and in training the mean of
    the batch cancels the bias.
    """
    mean = f'{norm}.running_mean'
    value = conversion.target[mean] - conversion.source[bias]
    conversion.merge(bias, mean, value, 'subtracted from it')


def residual_depth(names: Iterable[str]) -> int:
    """Depth of a ResNet by the numbers of its blocks, from keys ``layerX.Y.*``.

    Raises:
        ValueError: If it is none of ResNet-50, -101 and -152.
    """
    found = {tuple(map(int, m.groups())) for m in map(_BLOCK.match, names) if m}
    counts = tuple(sum(stage == s for s, _ in found) for stage in range(1, 5))
    if counts not in DEPTHS:
        raise ValueError(
            f'the checkpoint has {counts} residual blocks in its four stages; known '
            f'are {sorted(DEPTHS)} (ResNet-50, -101, -152)'
        )
    return DEPTHS[counts]


def require_keys(
    state_dict: dict[str, Tensor], keys: tuple[str, ...], what: str
) -> None:
    """Raise ValueError unless all ``keys`` are there."""
    missing = [key for key in keys if key not in state_dict]
    if missing:
        raise ValueError(
            f'the checkpoint is no {what}: it lacks {missing}; its first keys are '
            f'{list(state_dict)[:4]}'
        )


def base_model(name: str) -> dict:
    """The model of ``configs/recognition/_base_/models/<name>.py``, untrained."""
    model = Config.fromfile(MODELS_FOLDER / f'{name}.py').model
    backbone = model.backbone.get('backbone', model.backbone)
    if 'pretrained' in backbone:
        backbone.pretrained = None
    return model


def build(model: dict) -> nn.Module:
    """Build a recogniser."""
    from mmaction.registry import MODELS
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope('mmaction'):
        return MODELS.build(model)


def nl_block_prefix(host: str) -> str:
    """Prefix of the keys of an ``NLBlock`` that follows the module ``host``."""
    return f'{host}.{NLBlock._abbr_}.'


def finish(arguments: argparse.Namespace, conversion: Conversion, model: dict) -> None:
    """Check the weights against the model, write them, the report and the config."""
    state_dict = conversion.finish()
    wanted = model
    if arguments.config:
        wanted = Config.fromfile(arguments.config).model
    load_strictly(build(wanted), state_dict)
    _save(arguments, conversion, state_dict)
    if arguments.write_config:
        write_config(arguments.write_config, model)


def finish_back(
    arguments: argparse.Namespace, conversion: Conversion, prefix: str = ''
) -> None:
    """Write weights with the original's names, each behind ``prefix``."""
    state_dict = conversion.finish()
    named = {prefix + key: value for key, value in state_dict.items()}
    _save(arguments, conversion, named)


def _save(
    arguments: argparse.Namespace, conversion: Conversion, state_dict: dict
) -> None:
    save_checkpoint(arguments.out, state_dict)
    report = arguments.report or arguments.out.with_suffix('.txt')
    save_report(report, conversion)
    print(f'{conversion.summary()}; {report} tells where each key went')
