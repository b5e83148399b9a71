# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every converter on files that cannot be converted: one sentence, status 1."""

import importlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

for package in ('mmaction', 'mmpretrain', 'mmseg'):
    pytest.importorskip(package)

FOLDER = Path(__file__).resolve().parents[2] / 'tools/model_converters'
sys.path.insert(0, str(FOLDER))

CONVERTERS = sorted(path.stem for path in FOLDER.glob('*_to_*.py'))
READ_BLOBS = ('nl_resnet3d_to_mmaction', 'torchvision_to_mmaction')
ONE_WAY = ('snl_segmentation_to_mmseg', 'torchvision_to_mmaction')
COMMANDS = [(name, ()) for name in CONVERTERS]
COMMANDS += [(name, ('--back',)) for name in CONVERTERS if name not in ONE_WAY]
WHOLE = torch.ones(2, 3)


def weights(value):
    return dict(state_dict={'a.weight': WHOLE, 'b.weight': value})


def with_value(value, dtype=torch.float32):
    tensor = torch.ones(2, 3, dtype=dtype)
    tensor[1, 1] = value
    return weights(tensor)


# name: (content, reason)
CONTENTS = {
    'NaN': (with_value(float('nan')), "'b.weight' holds 1 NaN or infinite values of 6"),
    'infinite': (with_value(float('inf')), "'b.weight' holds 1 NaN or inf"),
    'minus infinite': (with_value(float('-inf')), "'b.weight' holds 1 NaN or inf"),
    'half': (with_value(float('nan'), torch.half), "'b.weight' holds 1 NaN or inf"),
    'bfloat16': (with_value(float('inf'), torch.bfloat16), 'holds 1 NaN or infinite'),
    'double': (with_value(float('nan'), torch.double), 'holds 1 NaN or infinite'),
    'float8': (
        weights(torch.full((2,), float('nan')).to(torch.float8_e4m3fn)),
        'holds 2 NaN or infinite',
    ),
    'complex': (weights(torch.ones(2, dtype=torch.cfloat)), "'b.weight' is complex"),
    'sparse': (weights(torch.eye(2).to_sparse()), "'b.weight' is sparse"),
    'meta': (weights(torch.ones(2, device='meta')), "'b.weight' is without values"),
    'list': ([WHOLE], 'it holds a list'),
    'tensor': (WHOLE, 'it holds a Tensor'),
    'number': (3, 'it holds a int'),
    'None': (None, 'it holds None'),
    'empty dict': ({}, 'holds no state dict'),
    'no state dict': ({'epoch': 3}, "the keys ['epoch']"),
    'state_dict=None': (dict(state_dict=None, epoch=3), "'state_dict' is None"),
    'state_dict is a list': (dict(state_dict=[WHOLE]), "'state_dict' is a list"),
    'net=None': (dict(net=None, a=WHOLE), "'net' is None"),
    'empty state_dict': (dict(state_dict={}), 'holds no state dict'),
    'numbers as keys': ({3: WHOLE}, 'a key is 3, not a string'),
}
BYTES = {
    'empty': (b'', 'is empty'),
    'text': (b'no weights at all', 'truncated or not a PyTorch'),
    'zeros': (bytes(99), 'truncated or not a PyTorch'),
}


def sentence(name, monkeypatch, source, *options):
    """What the converter says of ``source``; it writes nothing."""
    module = importlib.import_module(name)
    out = source.with_name('out.pth')
    monkeypatch.setattr(sys, 'argv', [name, str(source), str(out), *options])
    before = set(source.parent.iterdir())
    with pytest.raises(SystemExit) as ended:
        getattr(module, 'core', module).run(module.main)
    assert set(source.parent.iterdir()) == before
    text = ended.value.code
    assert isinstance(text, str), 'a message, hence status 1'
    assert text.startswith('error: ') and text.count(str(source)) == 1
    assert '\n' not in text
    return text


def write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize('name, options', COMMANDS)
def test_files_that_hold_no_weights(name, options, tmp_path, monkeypatch):
    for case, (content, reason) in {**CONTENTS, **BYTES}.items():
        source = write(tmp_path / 'bad.pth', content)
        text = sentence(name, monkeypatch, source, *options)
        assert reason in text, (case, text)


@pytest.mark.parametrize('name', READ_BLOBS)
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_blobs_that_are_not_finite(name, value, tmp_path, monkeypatch):
    source = tmp_path / 'bad.pkl'
    source.write_bytes(pickle.dumps(dict(blobs={'conv1_w': np.array([1, value])})))
    text = sentence(name, monkeypatch, source)
    assert "'conv1_w' holds 1 NaN or infinite values of 2" in text


# A key of each network whose shape the converter looks at, and the others it needs.
FIRST_KEYS = {
    'classification_to_mmpretrain': ('fc.weight', 'layer4.0.conv1.weight'),
    'inception_i3d_to_mmaction': (
        'conv3d_1a_7x7.conv3d.weight',
        'conv3d_0c_1x1.conv3d.weight',
    ),
    'nl_resnet3d_to_mmaction': ('conv1.weight', 'fc.weight'),
    'snl_segmentation_to_mmseg': ('decode_head.SNL.stages.0.w_1.weight',),
    'torchvision_to_mmaction': ('conv1.weight', 'bn1.weight'),
    'tsm_to_mmaction': ('base_model.conv1.weight', 'new_fc.weight'),
}


@pytest.mark.parametrize('shape', [(), (0,), (3,), (2, 2, 2, 2, 2, 2)], ids=str)
@pytest.mark.parametrize('name', CONVERTERS)
def test_tensors_of_other_shapes(name, shape, tmp_path, monkeypatch):
    source = tmp_path / 'odd.pth'
    torch.save({key: torch.ones(shape) for key in FIRST_KEYS[name]}, source)
    text = sentence(name, monkeypatch, source)
    assert 'to unpack' not in text or '--debug shows' in text


@pytest.mark.parametrize('error', [IndexError('tuple index'), KeyError('a'), TypeError])
@pytest.mark.parametrize('name', CONVERTERS)
def test_errors_inside_a_converter(name, error, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    module = importlib.import_module(name)
    holder = module if hasattr(module, 'load_checkpoint') else module.core
    source = write(tmp_path / 'good.pth', weights(WHOLE))
    monkeypatch.setattr(holder, 'load_checkpoint', fail)
    text = sentence(name, monkeypatch, source)
    kind = error.__name__ if isinstance(error, type) else type(error).__name__
    assert f'({kind}: ' in text and text.endswith('--debug shows the traceback')
    # The switch lets the error through.
    monkeypatch.setattr(sys, 'argv', [*sys.argv, '--debug'])
    with pytest.raises((IndexError, KeyError, TypeError)):
        getattr(module, 'core', module).run(module.main)


def test_a_large_double_is_a_number(tmp_path):
    core = importlib.import_module('conversion')
    large = torch.tensor([1e300], dtype=torch.float64)
    path = write(tmp_path / 'large.pth', {'a': large})
    assert core.load_checkpoint(path).state_dict['a'].item() == 1e300
