# Copyright (c) The nl_plugins authors. All rights reserved.
"""Names of the weights of a block in the originals and in ours, both ways.

Each family of originals lists which of its tensors is which of ours; the same list
serves both directions. What the keys do not tell (the mode, the kind of filter, the
affinity) comes as options.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from conversion import Conversion
from torch import Tensor

_NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
_CONV = ('weight', 'bias')


@dataclass(frozen=True)
class Rule:
    """Original tensors ``old`` (side by side along the channels) are ours ``new``."""

    old: tuple[str, ...]
    new: str
    old_shape: tuple[int, ...] | None = None
    new_shape: tuple[int, ...] | None = None

    def forward(self, conversion: Conversion, old: str, new: str) -> None:
        """Original -> ours, if the original has it."""
        olds = [old + name for name in self.old]
        if olds[0] not in conversion.source:
            return
        if len(olds) > 1:
            conversion.join(olds, new + self.new)
        else:
            change = _reshape(self.new_shape)
            note = f'reshaped to {self.new_shape}' if change else ''
            conversion.move(olds[0], new + self.new, change, note)

    def backward(self, conversion: Conversion, old: str, new: str) -> None:
        """Ours -> original, if ours has it."""
        if new + self.new not in conversion.source:
            return
        olds = [old + name for name in self.old]
        if len(olds) > 1:
            conversion.split(new + self.new, olds)
        else:
            conversion.move(new + self.new, olds[0], _reshape(self.old_shape))


def _reshape(shape: tuple[int, ...] | None) -> Callable[[Tensor], Tensor] | None:
    return None if shape is None else lambda tensor: tensor.reshape(shape)


def rename(old: str, new: str, names: tuple[str, ...]) -> list[Rule]:
    """Rules for a layer's tensors ``names``."""
    return [Rule((f'{old}.{name}',), f'{new}.{name}') for name in names]


@dataclass
class BlockKeys:
    """How one block of an original becomes ours.

    Attributes:
        cfg (dict): Config of our block.
        rules (list[Rule]): Both directions.
        drops (dict[str, str]): Regular expressions of original keys that our block
            has no use for, and why.
        copies (dict[str, str]): Original keys (prefixes) that repeat others.
        unused (dict[str, tuple]): Tensors that the original never uses but wants to
            load, with their shapes; written as zeros.
    """

    cfg: dict
    rules: list[Rule]
    drops: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    unused: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def forward(self, conversion: Conversion, old: str, new: str) -> None:
        """Place the original's keys below ``old`` at ours below ``new``."""
        for rule in self.rules:
            rule.forward(conversion, old, new)
        for key in conversion.under(old):
            for pattern, why in self.drops.items():
                if re.fullmatch(pattern, key[len(old) :]):
                    conversion.drop(key, why)
                    break

    def backward(self, conversion: Conversion, old: str, new: str) -> None:
        """Place ours below ``new`` at the original's keys below ``old``."""
        for rule in self.rules:
            rule.backward(conversion, old, new)
        for alias, origin in self.copies.items():
            for key in [
                key for key in conversion.target if key.startswith(old + origin)
            ]:
                copy = old + alias + key[len(old + origin) :]
                conversion.add(copy, conversion.target[key], f'the same as {key}')
        like = next(iter(conversion.target.values()))
        for key, shape in self.unused.items():
            conversion.add(old + key, like.new_zeros(shape), 'unused there')


def stage_rules(num_units: int, zero_order: bool) -> list[Rule]:
    """``Stage`` of the SNL repository, its segmentation form and its predecessor."""
    rules = [
        Rule(('t.weight',), 'theta.conv.weight'),
        Rule(('p.weight',), 'phi.conv.weight'),
    ]
    outputs = ('w_1', 'w_2') if zero_order else ('w_2',)
    for k in range(num_units):
        old, new = f'stages.{k}.', f'units.{k}.' if num_units > 1 else ''
        rules += [
            Rule((f'{old}g.weight',), f'{new}g.conv.weight'),
            Rule(
                tuple(f'{old}{name}.weight' for name in outputs),
                f'{new}conv_out.conv.weight',
            ),
            Rule((f'{old}w_m.weight',), f'{new}conv_mask.weight'),
            Rule((f'{old}w_h.weight',), f'{new}conv_h.conv.weight'),
            *rename(f'{old}bn', f'{new}conv_out.bn', _NORM),
        ]
    return rules


# Our block for each nl_type of the SNL repository's Stage, as it is without flags.
STAGE_BLOCKS = {
    'snl': dict(type='SNLBlock'),
    'nl': dict(type='ChebyshevNLBlock', order=1, zero_order=False, affinity='softmax'),
    'ns': dict(type='NSBlock'),
    'a2': dict(type='A2Block', definition='snl'),
    'dnl': dict(type='DNLBlock', definition='snl'),
    'caylay': dict(type='CayleyNLBlock', affinity='softmax'),
}


def stage(
    shapes: Mapping[str, tuple], block_type: str | None, affinity: dict
) -> BlockKeys:
    """A block of the SNL repository's ``Stage``.

    Args:
        shapes (Mapping[str, tuple]): Its keys without prefix, and their shapes.
        block_type (str, optional): Needed for nl, a2 and ns, whose keys are the same.
        affinity (dict): ``affinity`` and ``symmetric`` of our block.

    Raises:
        ValueError: If the keys do not tell the type and ``block_type`` does not, or
            it contradicts them.
    """
    if 'stages.0.w_h.weight' in shapes:
        told = 'caylay'
    elif 'stages.0.w_m.weight' in shapes:
        told = 'dnl'
    elif 'stages.0.w_1.weight' in shapes:
        told = 'snl'
    else:
        told = None
    choices = [told] if told else ['nl', 'a2', 'ns']
    block_type = choose('block type', '--block-type', block_type, choices)
    units = {re.match(r'stages\.(\d+)\.', key)[1] for key in shapes if 'stages.' in key}
    cfg = dict(STAGE_BLOCKS[block_type], reduction=reduction(shapes['t.weight']))
    cfg.update({key: value for key, value in affinity.items() if value is not None})
    if len(units) > 1:
        cfg['num_units'] = len(units)
    return BlockKeys(cfg, stage_rules(len(units), 'stages.0.w_1.weight' in shapes))


def tea(shapes: Mapping[str, tuple], mode: str | None) -> BlockKeys:
    """``NLBlockND`` of tea1528, and AlexHex7's blocks (``W`` for ``W_z``)."""
    out = 'W_z' if any(key.startswith('W_z.') for key in shapes) else 'W'
    pooled = 'g.0.weight' in shapes
    normed = f'{out}.1.weight' in shapes
    if not any(key.startswith('theta.') for key in shapes):
        modes = ['gaussian']
    elif any(key.startswith(('W_f.', 'concat_project.')) for key in shapes):
        modes = ['concatenation']
    else:
        modes = ['embedded_gaussian', 'dot_product']
    infix = '.0' if pooled else ''
    rules = [
        *rename(f'g{infix}', f'g{infix}.conv', _CONV),
        *rename('theta', 'theta.conv', _CONV),
        *rename(f'phi{infix}', f'phi{infix}.conv', _CONV),
        *rename(f'{out}.0' if normed else out, 'conv_out.conv', _CONV),
        *rename(f'{out}.1', 'conv_out.bn', _NORM),
        *rename(
            'W_f.0' if out == 'W_z' else 'concat_project.0',
            'concat_project.conv',
            _CONV,
        ),
    ]
    weight = shapes[f'g{infix}.weight']
    cfg = dict(
        type='NLBlock',
        mode=choose('pairwise function', '--mode', mode, modes),
        reduction=reduction(weight),
        use_scale=False,
        sub_sample=pooled,
        out_bias=True,
        concat_bias='W_f.0.bias' in shapes,
        norm_cfg=dict(type='BN') if normed else None,
    )
    return BlockKeys(cfg, rules)


def spatial_nl(shapes: Mapping[str, tuple]) -> BlockKeys:
    """``SpatialNL`` of CGNL."""
    rules = [
        Rule(('t.weight',), 'theta.conv.weight'),
        Rule(('p.weight',), 'phi.conv.weight'),
        Rule(('g.weight',), 'g.conv.weight'),
        Rule(('z.weight',), 'conv_out.conv.weight'),
        *rename('bn', 'conv_out.bn', _NORM),
    ]
    cfg = dict(
        type='NLBlock',
        reduction=reduction(shapes['t.weight']),
        bias=False,
        out_bias=False,
        norm_cfg=dict(type='BN'),
        init='normal',
    )
    return BlockKeys(cfg, rules)


def cgnl(shapes: Mapping[str, tuple], block_type: str | None) -> BlockKeys:
    """``SpatialCGNL`` (dot kernel), ``SpatialCGNLx`` (RBF) of CGNL and of SNL."""
    rules = [
        Rule(('t.weight',), 'theta.conv.weight'),
        Rule(('p.weight',), 'phi.conv.weight'),
        Rule(('g.weight',), 'g.conv.weight'),
        Rule(('z.weight',), 'conv_out.conv.weight'),
        *rename('gn', 'conv_out.gn', _CONV),
    ]
    groups = shapes['t.weight'][0] // shapes['z.weight'][1]
    # The SNL repository never groups; CGNL's networks have eight groups.
    choices = ['cgnl_snl'] if groups == 1 else ['cgnl', 'cgnlx']
    if groups == 1 and block_type == 'cgnl':
        block_type = 'cgnl_snl'
    kernel = {
        'cgnl': dict(kernel='dot'),
        'cgnlx': dict(kernel='rbf', order=3),
        'cgnl_snl': dict(kernel='rbf', order=2),
    }[choose('block type', '--block-type', block_type, choices)]
    cfg = dict(
        type='CGNLBlock',
        reduction=reduction(shapes['t.weight']),
        groups=groups,
        **kernel,
    )
    return BlockKeys(cfg, rules)


def criss_cross(shapes: Mapping[str, tuple]) -> BlockKeys:
    """Criss-cross modules of the SNL repository, one after another."""
    units = sorted({int(key.split('.')[0]) for key in shapes})
    rules = []
    for k in units:
        old, new = f'{k}.', f'units.{k}.' if len(units) > 1 else ''
        for name, ours in (('query', 'theta'), ('key', 'phi'), ('value', 'g')):
            rules += rename(f'{old}{name}_conv', f'{new}{ours}.conv', _CONV)
        rules.append(Rule((f'{old}gamma',), f'{new}gamma.weight', (1,), (1, 1, 1)))
    cfg = dict(
        type='CCBlock',
        reduction=reduction(shapes['0.query_conv.weight']),
        recurrence=len(units),
        shared=len(units) == 1,
    )
    return BlockKeys(cfg, rules)


def apnb(shapes: Mapping[str, tuple]) -> BlockKeys:
    """``APNB`` of the SNL repository.

    Raises:
        ValueError: If there are several in a row.
    """
    if '1.stages.0.f_key.0.weight' in shapes:
        raise ValueError(
            'the checkpoint has several APNB modules in a row (stage_num > 1); '
            'ANLBlock is one, so it cannot be converted'
        )
    old = '0.stages.0.'
    rules = [
        *rename(f'{old}f_key.0', 'theta.conv', _CONV),
        *rename(f'{old}f_key.1', 'theta.bn', _NORM),
        *rename(f'{old}f_value', 'g.conv', _CONV),
        *rename(f'{old}W', 'conv_out.conv', _CONV),
    ]
    width = shapes[f'{old}W.weight'][0]
    unused = {
        '0.conv_bn_dropout.0.weight': (width, 2 * width, 1, 1),
        '0.conv_bn_dropout.0.bias': (width,),
        **{f'0.conv_bn_dropout.1.{name}': (width,) for name in _NORM[:4]},
        '0.conv_bn_dropout.1.num_batches_tracked': (),
    }
    cfg = dict(
        type='ANLBlock',
        reduction=reduction(shapes[f'{old}f_key.0.weight']),
        # The original updates this norm twice a step: 1 - (1 - 0.1)^2
        norm_cfg=dict(type='BN', momentum=0.19),
    )
    return BlockKeys(
        cfg,
        rules,
        drops={
            r'0\.conv_bn_dropout\..*': 'the original never uses it',
            r'0\.stages\.0\.f_query\..*': 'the same tensors as f_key',
        },
        copies={f'{old}f_query.': f'{old}f_key.'},
        unused=unused,
    )


def original_block(
    shapes: Mapping[str, tuple],
    block_type: str | None = None,
    mode: str | None = None,
    affinity: dict | None = None,
) -> BlockKeys:
    """Recognise an original block by its keys.

    Args:
        shapes (Mapping[str, tuple]): Its keys without prefix, and their shapes.
        block_type (str, optional): For kinds that share their keys.
        mode (str, optional): Pairwise function, for kinds that share their keys.
        affinity (dict, optional): ``affinity`` and ``symmetric`` of a ``Stage``.

    Returns:
        BlockKeys: The config of ours and the way of each key.

    Raises:
        ValueError: Unknown keys, or an option that they do not tell is missing.
    """
    if 'stages.0.g.weight' in shapes:
        return stage(shapes, block_type, affinity or {})
    if '0.query_conv.weight' in shapes:
        return criss_cross(shapes)
    if '0.stages.0.f_key.0.weight' in shapes:
        return apnb(shapes)
    if 'z.weight' in shapes and 'gn.weight' in shapes:
        return cgnl(shapes, block_type)
    if 'z.weight' in shapes and 'bn.weight' in shapes:
        return spatial_nl(shapes)
    if any(key.startswith(('W_z.', 'W.')) for key in shapes):
        return tea(shapes, mode)
    raise ValueError(
        f'a block with the keys {sorted(shapes)[:4]} is of no known repository'
    )


def choose(what: str, flag: str, given: str | None, choices: list[str]) -> str:
    """``given`` if it is a choice, or the only choice.

    Raises:
        ValueError: Saying what to pass.
    """
    if given is None and len(choices) == 1:
        return choices[0]
    if given in choices:
        return given
    if given is None:
        raise ValueError(
            f'the keys do not tell the {what}, which may be one of {choices}: pass '
            f'{flag}'
        )
    raise ValueError(f'{flag} {given}: the keys say that the {what} is in {choices}')


def reduction(weight: tuple[int, ...]) -> int:
    """``in_channels // inner channels`` from a (C', C, 1, 1) projection."""
    inner, channels = weight[:2]
    if channels % inner:
        raise ValueError(
            f'a projection from {channels} to {inner} channels is no whole reduction'
        )
    return channels // inner


def our_block(shapes: Mapping[str, tuple], name: str) -> BlockKeys:
    """The original's names for a block of ours, for the way back.

    Args:
        shapes (Mapping[str, tuple]): Its keys without prefix, and their shapes.
        name (str): Its name in the backbone, such as ``'snl_block'``.

    Raises:
        ValueError: If no original has such a block.
    """
    first = 'units.0.' if 'units.0.g.conv.weight' in shapes else ''
    units = max(len({k.split('.')[1] for k in shapes if k.startswith('units.')}), 1)
    if name == 'cc_block':
        told = {f'{k}.query_conv.weight': (1, 1) for k in range(units)}
        return criss_cross(told)
    if name == 'anl_block':
        return apnb(
            {
                '0.stages.0.f_key.0.weight': shapes['theta.conv.weight'],
                '0.stages.0.W.weight': shapes['conv_out.conv.weight'],
            }
        )
    if name == 'cgnl_block':
        told = {
            't.weight': shapes['theta.conv.weight'],
            'z.weight': (*shapes['conv_out.conv.weight'][:2],),
        }
        grouped = told['t.weight'][0] != told['z.weight'][1]
        return cgnl(told, 'cgnl' if grouped else 'cgnl_snl')
    if (
        name == 'nl_block'
        and 'theta.conv.bias' not in shapes
        and ('theta.conv.weight' in shapes)
    ):
        return spatial_nl({'t.weight': shapes['theta.conv.weight']})
    if name == 'nl_block':
        pooled = 'g.0.conv.weight' in shapes  # AlexHex7's, tea1528 does not pool
        infix, out = ('.0', 'W') if pooled else ('', 'W_z')
        told = {f'g{infix}.weight': shapes[f'g{infix}.conv.weight']}
        if 'conv_out.bn.weight' in shapes:
            told[f'{out}.1.weight'] = ()
        else:
            told[f'{out}.weight'] = ()
        mode = None
        if 'concat_project.conv.weight' in shapes:
            told.update({'theta.weight': (), 'W_f.0.weight': ()})
        elif any(key.startswith('theta.') for key in shapes):
            told['theta.weight'] = ()
            mode = 'embedded_gaussian'  # the keys of dot_product are the same
        return tea(told, mode)
    kinds = ('snl', 'chebyshev_nl', 'ns', 'a2', 'dnl', 'cayley_nl')
    if name.removesuffix('_block') in kinds:
        width = shapes[f'{first}g.conv.weight'][0]
        zero_order = shapes[f'{first}conv_out.conv.weight'][1] == 2 * width
        return BlockKeys({}, stage_rules(units, zero_order))
    raise ValueError(f'no original network has a block like {name}')
