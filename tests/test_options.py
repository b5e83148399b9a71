# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every option of every class refuses what its annotation does not say."""

import inspect
import math
import typing
from collections.abc import Sequence
from importlib import import_module
from types import UnionType
from typing import Annotated, Any, Literal, Union

import pytest
import torch.nn as nn
from mmengine.registry import Registry

from nl_plugins.blocks import BLOCKS
from nl_plugins.options import (
    Cfg,
    Count,
    Range,
    accepts,
    annotations,
    check,
    checked,
    describe,
    parameters,
)


def registered() -> dict[str, type]:
    """Every class that the package adds to a registry, by module and name."""
    for module in (
        'recognition',
        'classification',
        'segmentation',
        'attach',
        'analysis',
    ):
        import_module(f'nl_plugins.{module}')
    found = {}
    for package in ('mmengine', 'mmpretrain', 'mmseg', 'mmaction'):
        for registry in vars(import_module(f'{package}.registry')).values():
            if not isinstance(registry, Registry):
                continue
            for cls in registry.module_dict.values():
                module = getattr(cls, '__module__', '')
                if isinstance(cls, type) and module.startswith('nl_plugins.'):
                    found[f'{module.removeprefix("nl_plugins.")}.{cls.__name__}'] = cls
    return found


CLASSES = registered()


def wrong(hint: Any) -> list:
    """Values of a wrong type, choice, length and range, from the annotation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        values = wrong(args[0])
        for limit in args[1:]:
            if isinstance(limit, Range):
                low = [limit.low] if limit.ends[0] == '(' else [limit.low - 1]
                high = [limit.high] if limit.ends[1] == ')' else [limit.high + 1]
                values += [v for v in low + high if math.isfinite(v)]
            else:
                values.append({} if args[0] is dict else [])
        return values
    if origin is Literal:
        values = [object(), [], 'no such choice', 17, 0.5]
        # 1 and 1.0 equal True, and configs that were edited hold 'False'.
        values += [float(arg) for arg in args if type(arg) is int]
        values += [int(arg) for arg in args if type(arg) is bool]
        values += [str(arg) for arg in args if type(arg) is bool]
        return values
    if origin in (Union, UnionType):
        return [v for arg in args for v in wrong(arg) if not accepts(hint, v)]
    if origin is tuple and args[-1] is not Ellipsis:
        return ['text', 0.5, [], [object()] * len(args), [1] * (len(args) + 1)]
    if origin in (tuple, list, Sequence):
        return ['text', 0.5] + [[value] for value in wrong(args[0])]
    return {
        bool: ['False', 'yes', 1, 0, None, []],
        int: [True, 1.5, '1', math.nan, None, []],
        float: [True, '0.5', math.nan, math.inf, None, []],
        str: [1, True, None, []],
        dict: ['text', 1, []],
    }.get(hint, [])


def cases():
    for name, cls in CLASSES.items():
        left = set(parameters(cls)[0])
        for base in cls.__mro__:
            init = vars(base).get('__init__')
            if base.__module__.startswith('nl_plugins') and init is not None:
                for option, hint in annotations(init).items():
                    parameter = inspect.signature(init).parameters[option]
                    if parameter.kind is not parameter.VAR_KEYWORD and option in left:
                        left.remove(option)
                        yield pytest.param(
                            cls,
                            base,
                            option,
                            hint,
                            id=f'{name}-{base.__name__}-{option}',
                        )


ACCEPTED = [
    (-1, 16),
    16,
    20,
    50,
    0.5,
    'text',
    dict(type='SNLBlock'),
    [16],
    [dict(type='SNLBlock')],
    None,
]


def required(cls, base, option):
    """The least that lets the constructor see ``option``."""
    owner = cls if '__init__' in vars(cls) else base
    own = inspect.signature(owner.__init__).parameters.values()
    hints = {**vars(cls).get('passed_on', {}), **annotations(owner.__init__)}
    needed = {
        p.name: next(v for v in ACCEPTED if accepts(hints.get(p.name, Any), v))
        for p in [*own][1:]
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    if (
        option in ('affinity', 'symmetric')
        and 'definition' in inspect.signature(cls).parameters
    ):
        needed['definition'] = 'snl'  # the other definition has no such option
    return needed


@pytest.mark.parametrize('cls, base, option, hint', cases())
def test_wrong_values_get_the_sentence(cls, base, option, hint):
    for value in wrong(hint):
        with pytest.raises(ValueError) as error:
            cls(**{**required(cls, base, option), option: value})
        message = str(error.value)
        assert message.startswith(f'{cls.__name__}: {option} must be '), message
        assert repr(value) in message
        assert '\n' not in message


@pytest.mark.parametrize('cls, base, option, hint', cases())
def test_defaults_are_accepted(cls, base, option, hint):
    default = inspect.signature(base.__init__).parameters[option].default
    if default is not inspect.Parameter.empty:
        check(cls.__name__, option, default, hint)


@pytest.mark.parametrize(
    'hint, words',
    [
        (Count, 'a positive integer'),
        (Cfg | None, "a dict with the key 'type' or None"),
        (Annotated[float, Range(0, 1, '[)')], 'a finite number in [0, 1)'),
        (Annotated[int, Range(2)], 'an integer at least 2'),
        (tuple[int, int], 'a sequence of 2, each an integer'),
        (Literal['a', 1] | None, "one of ['a', 1] or None"),
    ],
)
def test_words(hint, words):
    assert describe(hint) == words


def test_near_names():
    @checked
    class Blur:
        def __init__(self, size: Count = 3, pad: Literal['zero', 'edge'] = 'zero'):
            self.size = size

    assert Blur(size=5).size == 5
    with pytest.raises(ValueError, match=r"but got 'edges' \(did you mean 'edge'\?\)"):
        Blur(pad='edges')
    with pytest.raises(TypeError, match=r"Blur has no option 'sise'.*mean 'size'"):
        Blur(sise=3)


@pytest.mark.parametrize('cls', BLOCKS.values(), ids=BLOCKS)
def test_signature_and_help_list_every_option(cls):
    listed = inspect.signature(cls).parameters
    assert set(listed) == {'in_channels', *cls.options()}
    for name, parameter in listed.items():
        assert f'\n    {name} (' in cls.__doc__
        assert (parameter.default is parameter.empty) == (name == 'in_channels')
    # What the signature says is what the constructor does.
    block = cls(16)
    for name in ('init', 'ndim', 'reduction', 'zeros_init', 'bias', 'act_cfg'):
        if name in listed and name in vars(block):
            assert listed[name].default == vars(block)[name], name


@pytest.mark.parametrize('cls', BLOCKS.values(), ids=BLOCKS)
def test_repr_is_one_line(cls):
    for options in cls.variants.values():
        line = repr(nn.Sequential(cls(16, **options))).splitlines()[1]
        given = ''.join(f', {name}={value!r}' for name, value in options.items())
        assert line == f'  (0): {cls.__name__}(16{given})'


def passed_on_cases():
    for name, cls in CLASSES.items():
        for option, hint in vars(cls).get('passed_on', {}).items():
            yield pytest.param(cls, option, hint, id=f'{name}-{option}')


@pytest.mark.parametrize('cls, option, hint', passed_on_cases())
def test_options_that_upstream_gets(cls, option, hint):
    """Also those that a class hands on to the codebase's constructor."""
    for value in wrong(hint):
        with pytest.raises(ValueError) as error:
            cls(**{**required(cls, cls, option), option: value})
        message = str(error.value)
        # A head says more of a list of channels.
        told = f'{cls.__name__} got {option}=', f'{cls.__name__}: {option} must be '
        assert message.startswith(told), message
    default = parameters(cls)[0][option].default
    if default is not inspect.Parameter.empty:
        check(cls.__name__, option, default, hint)


@pytest.mark.parametrize(
    'options',
    [
        dict(norm_cfg=dict(type='BNN')),
        dict(norm_cfg=dict(type='GN', num_groups=7)),
        dict(norm_cfg=dict(type='BN', momentums=1)),
        dict(act_cfg=dict(type='RELU')),
        dict(conv_cfg=dict(type='Conv9d')),
    ],
)
@pytest.mark.parametrize('cls', BLOCKS.values(), ids=BLOCKS)
def test_layers_that_cannot_be_built(cls, options):
    (option,) = options
    listed = inspect.signature(cls).parameters
    # One has no norm, another a norm of vectors, which is no convolution's.
    if option not in listed or cls.__name__ in ('CCBlock', 'ChannelGate'):
        return
    with pytest.raises(ValueError, match=f'^{cls.__name__}: .*{option}=') as error:
        cls(64, **options)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'init_cfg',
    [
        dict(type='Nope'),
        dict(layer='Conv2d'),
        dict(type='Normal', layer='Conv2d', stdd=1),
        dict(type='Constant', val=0, override=dict(name='nothing')),
        ['Normal'],
    ],
)
@pytest.mark.parametrize('cls', BLOCKS.values(), ids=BLOCKS)
def test_an_init_cfg_that_cannot_be_applied(cls, init_cfg):
    with pytest.raises(
        ValueError, match=f'^{cls.__name__}: init_cfg=.*one of'
    ) as error:
        cls(64, init_cfg=init_cfg)
    assert '\n' not in str(error.value)


def test_every_class_of_the_package_is_checked():
    assert len(CLASSES) > 40
    unchecked = [
        name
        for name, cls in CLASSES.items()
        for base in cls.__mro__
        if base.__module__.startswith('nl_plugins.')
        and '__init__' in vars(base)
        and annotations(vars(base)['__init__'])
        and not hasattr(vars(base)['__init__'], '__wrapped__')
    ]
    assert unchecked == []
