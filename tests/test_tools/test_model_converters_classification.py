# Copyright (c) The nl_plugins authors. All rights reserved.
"""Weights of the classification originals: exact keys, equal logits, and back."""

import pickle
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain')

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'tests'), str(ROOT / 'tools' / 'model_converters')]

import classification_originals as original  # noqa: E402
import classification_to_mmpretrain as converter  # noqa: E402
import conversion as core  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS as ROOT_MODELS  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmpretrain.registry import MODELS  # noqa: E402
from network_keys import Options, to_original, to_ours  # noqa: E402

import nl_plugins  # noqa: E402, F401


def stage(kind, units=1, flags=(True, True, False)):
    return (
        partial(original.add_stage, kind=kind, units=units),
        partial(original.stage, kind=kind, flags=flags),
    )


def tea(mode):
    return (
        partial(original.add_tea_block, mode=mode),
        partial(original.tea_block, mode=mode),
    )


def cgnl(groups, order):
    return partial(original.add_cgnl, groups=groups), partial(
        original.cgnl, order=order
    )


CRISS_CROSS = (original.add_criss_cross, original.criss_cross)
APNB = (original.add_apnb, original.apnb)
SPATIAL_NL = (original.add_spatial_nl, original.spatial_nl)


def build(converted):
    init_default_scope('mmpretrain')
    model = MODELS.build(converted.model).double().eval()
    core.load_strictly(model, converted.conversion.finish())
    return model


def assert_same_logits(model, expected, x):
    with torch.no_grad():
        logits = model(x, mode='tensor')
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


def assert_round_trip(model, weights):
    """Every tensor of the original comes back under its name."""
    back = to_original(model.state_dict()).conversion.finish()
    assert back.keys() == weights.keys()
    for key, value in weights.items():
        assert torch.equal(back[key], value), key


def images(size=32, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, size, size, generator=generator).double()


@pytest.mark.parametrize('n', [1, 3])
def test_akamaster(n, tmp_path):
    weights = original.cifar_resnet(n)
    path = tmp_path / 'resnet.th'
    prefixed = {f'module.{key}': value for key, value in weights.items()}
    torch.save({'state_dict': prefixed, 'best_prec1': 91.7}, path)
    checkpoint = core.load_checkpoint(path)
    assert checkpoint.meta == {'best_prec1': 91.7}
    converted = to_ours(checkpoint.state_dict, Options())
    assert converted.model['backbone'] == dict(type='CIFARResNet', depth=6 * n + 2)
    model = build(converted)
    x = images()
    assert_same_logits(model, original.cifar_resnet_forward(weights, x), x)
    assert_round_trip(model, weights)


@pytest.mark.parametrize(
    'mode', ['gaussian', 'embedded_gaussian', 'dot_product', 'concatenation']
)
def test_tea(mode, tmp_path):
    block = tea(mode)
    weights = original.cifar_resnet(2, block=block)
    assert 'layer2.1.g.weight' in weights and 'layer2.2.conv1.weight' in weights
    path = tmp_path / 'ckpt.t7'
    torch.save({'net': dict(weights), 'acc': 90.0, 'epoch': 3}, path)
    told = mode in ('gaussian', 'concatenation')
    if not told:
        with pytest.raises(ValueError, match='pass --mode'):
            to_ours(weights, Options())
    options = Options(mode=None if told else mode)
    converted = to_ours(core.load_checkpoint(path).state_dict, options)
    assert converted.model['backbone']['inserts'][0]['after'] == 'layer2.0'
    model = build(converted)
    x = images()
    expected = original.cifar_resnet_forward(weights, x, block)
    assert_same_logits(model, expected, x)
    assert_round_trip(model, weights)


PRERESNET_BLOCKS = {
    'baseline': (None, None),
    'snl': (stage('snl'), None),
    'snl three units': (stage('snl', units=3), None),
    'nl': (stage('nl'), 'nl'),
    'ns': (stage('ns'), 'ns'),
    'a2': (stage('a2'), 'a2'),
    'dnl': (stage('dnl'), None),
    'caylay': (stage('caylay'), None),
    'cgnl': (cgnl(1, 2), None),
    'cc': (CRISS_CROSS, None),
    'cc twice': ((partial(original.add_criss_cross, units=2), CRISS_CROSS[1]), None),
    'anl': (APNB, None),
}


@pytest.mark.parametrize('name', PRERESNET_BLOCKS)
def test_snl_preresnet20(name):
    block, block_type = PRERESNET_BLOCKS[name]
    weights = original.preresnet(20, block=block, extra_classes=10)
    converted = to_ours(weights, Options(block_type))
    assert converted.model['head']['num_classes'] == 10
    x = images(16)
    expected = original.preresnet_forward(weights, x, block)
    model = build(converted)
    assert_same_logits(model, expected[:, :10], x)
    report = converted.conversion.report()
    assert all(f'{key} (' in report for key in weights)

    # With all outputs every tensor comes back but those that nothing uses.
    model = build(to_ours(weights, Options(block_type, num_classes=1000)))
    assert_same_logits(model, expected, x)
    used = {
        key: torch.zeros_like(value) if 'conv_bn_dropout' in key else value
        for key, value in weights.items()
        if not key.startswith(('conv1.', 'fc.'))
    }
    assert_round_trip(model, used)


def test_snl_preresnet56_in_all_stages():
    block = stage('snl')
    weights = original.preresnet(56, (1, 2, 3), block)
    converted = to_ours(weights, Options(num_classes=100))
    inserts = converted.model['backbone']['inserts']
    assert [insert['after'] for insert in inserts] == [
        'layer1.1',
        'layer2.1',
        'layer3.1',
    ]
    x = images(16)
    expected = original.preresnet_forward(weights, x, block)[:, :100]
    model = build(converted)
    assert_same_logits(model, expected, x)
    back = to_original(model.state_dict()).conversion.finish()
    assert back['fc2.weight'].shape == (1000, 256)
    with torch.no_grad():
        again = original.preresnet_forward(back, x, block)
    torch.testing.assert_close(again[:, :100], expected, rtol=1e-10, atol=1e-10)
    assert (again.argmax(1) == expected.argmax(1)).all()
    # The padding outputs take no part in the softmax either.
    torch.testing.assert_close(again.softmax(1)[:, :100], expected.softmax(1))


RESNET_BLOCKS = {
    'torchvision': (18, None, Options(), 7),
    'snl with flags': (50, stage('snl'), Options(), 7),
    'nl without flags': (
        50,
        stage('nl', flags=(False, False, False)),
        Options('nl', affinity=dict(affinity='softmax', symmetric=False)),
        3,
    ),
    'a2 with is_sys': (
        50,
        stage('a2', flags=(False, True, True)),
        Options('a2', affinity=dict(affinity='relu_raw', symmetric=True)),
        3,
    ),
    # What the original builds without flags, but for snl.
    **{
        f'{kind} by default': (
            50,
            stage(kind, flags=flags),
            Options(kind if kind in ('nl', 'ns', 'a2') else None),
            3,
        )
        for kind, flags in {
            'snl': (True, True, False),
            'a2': (False, False, True),
            **dict.fromkeys(('nl', 'ns', 'dnl', 'caylay'), (False, False, False)),
        }.items()
    },
    'nl with is_sys': (
        50,
        stage('nl', flags=(False, True, False)),
        Options('nl', affinity=dict(symmetric=True)),
        3,
    ),
    'cgnl': (50, cgnl(8, None), Options('cgnl'), 7),
    'cgnlx': (50, cgnl(8, 3), Options('cgnlx'), 3),
    'spatial nl': (50, SPATIAL_NL, Options(), 3),
}


@pytest.mark.parametrize('name', RESNET_BLOCKS)
def test_resnet(name):
    depth, block, options, stem = RESNET_BLOCKS[name]
    weights = original.resnet(depth, 7, block, stem)
    converted = to_ours(weights, options)
    if block:
        assert converted.model['backbone']['inserts'][0]['after'] == 'layer3.4'
    x = images(64 if stem == 7 else 16, batch=1)
    expected = original.resnet_forward(weights, x, block)
    model = build(converted)
    assert_same_logits(model, expected, x)
    assert_round_trip(model, weights)


def test_torchvision_names_are_the_publishers():
    torchvision = pytest.importorskip('torchvision')
    published = torchvision.models.resnet18().state_dict()
    ours = original.resnet(18)
    assert {k: v.shape for k, v in published.items()} == {
        k: v.shape for k, v in ours.items()
    }


@pytest.mark.parametrize('pooled', [True, False])
@pytest.mark.parametrize('mode', ['embedded_gaussian', 'concatenation', 'gaussian'])
def test_alexhex7(mode, pooled, tmp_path):
    weights = original.Weights()
    for i, (inner, out) in enumerate(((1, 32), (32, 64), (64, 128)), 1):
        weights.conv(f'conv_{i}.0', out, inner, 3, bias=True)
        weights.norm(f'conv_{i}.1', out)
    for name, channels in (('nl_1', 32), ('nl_2', 64)):
        original.add_tea_block(weights, f'{name}.', channels, mode, 'W', pooled)
    weights.linear('fc.0', 256, 1152)
    weights.linear('fc.3', 10, 256)
    converted = converter.convert_blocks(weights, Options(mode=mode))
    state_dict = converted.conversion.finish()
    assert state_dict.keys() >= {'conv_1.0.weight', 'fc.3.bias'}
    converter.check(converted, state_dict)
    block = ROOT_MODELS.build(dict(converted.model['nl_2'])).double().eval()
    below = [key for key in state_dict if key.startswith('nl_2.')]
    core.load_strictly(block, {key[5:]: state_dict[key] for key in below})
    x = torch.randn(2, 64, 7, 6, dtype=torch.float64)
    expected = original.tea_block(weights, 'nl_2.', x, mode, 'W', pooled)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


def test_command_line(tmp_path, monkeypatch, capsys):
    weights = original.cifar_resnet(1)
    source, out = tmp_path / 'a.th', tmp_path / 'sub' / 'a.pth'
    torch.save({'state_dict': dict(weights)}, source)
    config, back = tmp_path / 'a.py', tmp_path / 'back.th'

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['converter', *map(str, arguments)])
        core.run(converter.main)
        return capsys.readouterr().out

    text = call(source, out, '--write-config', config)
    assert f'{len(weights)} keys moved, 0 dropped, 0 added' in text
    report = out.with_suffix('.txt').read_text()
    assert 'linear.weight (10, 64) -> head.fc.weight' in report
    init_default_scope('mmpretrain')
    MODELS.build(Config.fromfile(config).model).load_state_dict(
        torch.load(out, weights_only=True)['state_dict']
    )
    call(source, out, '--config', config)
    other = ROOT / 'configs/classification/_base_/models/preresnet20.py'
    with pytest.raises(SystemExit, match='error: .*: the weights do not fit'):
        call(source, tmp_path / 'b.pth', '--config', other)
    assert not (tmp_path / 'b.pth').exists()
    call(out, back, '--back')
    again = torch.load(back, weights_only=True)['state_dict']
    assert again.keys() == weights.keys()
    assert not [path for path in tmp_path.rglob('*.tmp')]


def test_block_type_from_the_file_name(tmp_path, monkeypatch):
    """The SNL repository's ns, nl and a2 have the same keys."""
    weights = original.preresnet(20, block=stage('ns'))
    with pytest.raises(ValueError, match=r"one of \['nl', 'a2', 'ns'\]: pass --block"):
        to_ours(weights, Options())
    path = tmp_path / '300-cifar10-r-20-w-1ns-block.pth.tar'
    checkpoint = core.Checkpoint(weights, {}, path)
    monkeypatch.setattr(sys, 'argv', ['x'])
    arguments = dict(block_type=None, mode=None, affinity=None, num_classes=10)
    arguments = type('Arguments', (), {**arguments, 'symmetric': False})
    converted = converter.convert(checkpoint, arguments)
    block = converted.model['backbone']['inserts'][0]['cfg']
    assert block['type'] == 'NSBlock' and block['affinity'] == 'sym_norm'


class Evil:
    """An object whose loading would run code."""

    def __reduce__(self):
        return (print, ('executed',))


@pytest.mark.parametrize('zipped', [True, False])
def test_bad_files(tmp_path, zipped, capsys):
    path = tmp_path / 'bad.pth'

    def message():
        with pytest.raises(ValueError) as error:
            core.load_checkpoint(path)
        assert str(path) in str(error.value) and '\n' not in str(error.value)
        return str(error.value)

    assert 'there is no checkpoint' in message()
    good = {'state_dict': {'a': torch.ones(3000)}}
    torch.save(good, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(b'')
    assert 'is empty' in message()
    for size in (1, 100, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        assert 'truncated or not a PyTorch checkpoint' in message()
    path.write_bytes(b'These are not the weights you are looking for.' * 9)
    assert 'not a PyTorch checkpoint' in message()
    torch.save({'a': Evil()}, path, _use_new_zipfile_serialization=zipped)
    text = message()
    assert 'runs code' in text and 'executed' not in capsys.readouterr().out
    torch.save({'epoch': 3}, path, _use_new_zipfile_serialization=zipped)
    assert 'holds no state dict' in message()


def test_numpy_scalars_and_old_torch(tmp_path, monkeypatch):
    """Training scripts save their accuracy; torch below 2.6 cannot allow its type."""
    path = tmp_path / 'scored.pth'
    torch.save({'state_dict': {'a': torch.ones(3)}, 'acc': np.float64(0.5)}, path)
    if core._TAKES_STAND_INS:
        assert core.load_checkpoint(path).meta == {'acc': 0.5}
        monkeypatch.setattr(core, '_TAKES_STAND_INS', False)

        def refuse(*args, **kwargs):
            raise pickle.UnpicklingError(
                'Unsupported class numpy.core.multiarray.scalar'
            )

        monkeypatch.setattr(torch, 'load', refuse)
    with pytest.raises(ValueError, match=r'holds numpy\.\S+, .*use torch>=2\.6'):
        core.load_checkpoint(path)


def test_wrong_networks():
    with pytest.raises(ValueError, match='no CIFAR ResNet, PreResNet or torchvision'):
        to_ours({'features.0.weight': torch.ones(1)}, Options())
    with pytest.raises(ValueError, match='no classifier of this package'):
        to_original({'features.0.weight': torch.ones(1)})
    weights = original.preresnet(20, block=stage('snl'))
    with pytest.raises(ValueError, match='--num-classes 2000'):
        to_ours(weights, Options(num_classes=2000))
    with pytest.raises(ValueError, match=r"--block-type a2: .* \['snl'\]"):
        to_ours(weights, Options('a2'))
    del weights['layer1.3.bn1.weight']
    with pytest.raises(ValueError, match='1 keys are missing'):
        build(to_ours(weights, Options()))
    weights = original.cifar_resnet(1)
    weights['layer1.0.extra.weight'] = torch.ones(2)
    with pytest.raises(ValueError, match='1 keys are unknown'):
        build(to_ours(weights, Options()))


def test_nothing_is_lost_in_silence():
    conversion = core.Conversion({'a': torch.ones(1), 'b': torch.ones(1)})
    conversion.move('a', 'c')
    with pytest.raises(ValueError, match=r"1 keys .* no place .*\['b'\]"):
        conversion.finish()
    with pytest.raises(ValueError, match='placed twice'):
        conversion.drop('a', 'why not')
    with pytest.raises(ValueError, match='two keys .* go to'):
        conversion.move('b', 'c')
    with pytest.raises(ValueError, match='lacks'):
        conversion.move('z', 'd')


@pytest.mark.skipif(
    not hasattr(torch.serialization, 'get_safe_globals'), reason='torch below 2.5'
)
def test_loading_leaves_the_list_of_safe_globals_as_it_was(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'weight': torch.zeros(1)}, path)
    before = torch.serialization.get_safe_globals()
    core.load_checkpoint(path)
    assert set(torch.serialization.get_safe_globals()) == set(before)
