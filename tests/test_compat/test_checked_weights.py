# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every reader of checkpoints names the file and what is wrong with it."""

import importlib
import math
import os
import re
import sys

import pytest
import torch

pytest.importorskip('mmengine')

from mmengine.runner import CheckpointLoader, load_checkpoint  # noqa: E402

import nl_plugins  # noqa: E402, F401
from nl_plugins.compat.checked_weights import BadCheckpoint  # noqa: E402


def weight(value) -> dict:
    return dict(state_dict=dict(weight=torch.tensor([[1.0, value]])))


CONTENTS = {
    'NaN': (weight(math.nan), "'weight' holds 1 NaN or infinite values of 2"),
    'inf': (weight(math.inf), 'holds 1 NaN or infinite'),
    '-inf': (weight(-math.inf), 'holds 1 NaN or infinite'),
    'complex': (weight(1j), "'weight' is complex"),
    'half NaN': (dict(a=torch.full((3,), math.nan).half()), "'a' holds 3 NaN"),
    'None': (dict(state_dict=None), "its 'state_dict' is None"),
    'list inside': (dict(state_dict=[1]), "its 'state_dict' is a list"),
    'list': ([torch.ones(2)], 'holds a list, not a dict'),
    'number': (3, 'holds a int, not a dict'),
    'tensor': (torch.ones(2), 'holds a Tensor'),
    'empty dict': ({}, 'holds no weights'),
    'no tensors': (dict(meta=dict(epoch=1)), r"only the keys \['meta'\]"),
}
FILES = {
    'empty': (b'', 'is empty'),
    'text': (b'no checkpoint\n', 'no PyTorch file'),
    'html': (b'<!DOCTYPE html><html>', 'no PyTorch file'),
    'zip': (b'PK\x03\x04' + bytes(30), 'no PyTorch file'),
}
KINDS = [*CONTENTS, *FILES, 'truncated']


def make(path, kind: str) -> str:
    """Write a bad checkpoint; what its error must say."""
    if kind in FILES:
        path.write_bytes(FILES[kind][0])
        return FILES[kind][1]
    content, message = CONTENTS.get(kind, (weight(1.0), 'truncated'))
    torch.save(content, path)
    if kind == 'truncated':
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    return message


@pytest.mark.parametrize('kind', KINDS)
def test_named(tmp_path, kind):
    path = tmp_path / 'bad.pth'
    message = make(path, kind)
    with pytest.raises(BadCheckpoint, match=f'the checkpoint {path}.*{message}') as e:
        load_checkpoint(torch.nn.Linear(2, 1), str(path))
    assert '\n' not in str(e.value)


@pytest.mark.parametrize(
    'content',
    [
        weight(1.0),
        dict(weight=torch.ones(2)),
        dict(model=dict(weight=torch.ones(2))),
        dict(state_dict=dict(attn_mask=torch.tensor([0, -math.inf]), step=3)),
        dict(
            state_dict=dict(
                steps=torch.tensor(3), big=torch.tensor(1e300, dtype=torch.float64)
            )
        ),
    ],
)
def test_taken(tmp_path, content):
    torch.save(content, tmp_path / 'good.pth')
    found = CheckpointLoader.load_checkpoint(str(tmp_path / 'good.pth'))
    assert found.keys() == content.keys()


class Odd:
    """What a restricted torch does not load."""


def test_objects_are_named(tmp_path):
    path = tmp_path / 'bad.pth'
    torch.save(dict(state_dict=dict(a=torch.ones(1)), odd=Odd()), path)
    with pytest.raises(BadCheckpoint, match=f'{path} holds [\\w.]+Odd, which is not'):
        CheckpointLoader.load_checkpoint(str(path))


def test_a_missing_file_is_another_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.pth'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'none.pth'))


MODEL = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['nl_plugins'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='LeNet5', num_classes=-1),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=120))
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ListFileDataset', ann_file='FOLDER/list.txt', data_prefix='FOLDER',
        num_classes=2, pipeline=test_pipeline))
test_evaluator = dict(type='Accuracy')
test_cfg = dict()
train_dataloader = test_dataloader
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
work_dir = 'FOLDER/run'
"""


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('tool', ['train', 'resume', 'test', 'export', 'vis_attention'])
def test_commands(root, tmp_path, monkeypatch, tool, kind):
    """In one sentence with file and reason, and status 1."""
    pytest.importorskip('mmpretrain')
    cv2 = pytest.importorskip('cv2')
    import numpy as np

    picture, config, path = (tmp_path / n for n in ('a.png', 'config.py', 'bad.pth'))
    cv2.imwrite(str(picture), np.zeros((32, 32, 3), np.uint8))
    (tmp_path / 'list.txt').write_text('a.png 0\n')
    config.write_text(MODEL.replace('FOLDER', str(tmp_path)))
    message = make(path, kind)
    for folder in ('', 'deployment', 'visualization'):
        monkeypatch.syspath_prepend(str(root / 'tools' / folder))
    monkeypatch.setenv('PYTHONPATH', os.environ.get('PYTHONPATH', ''))
    out = tmp_path / 'out.onnx'
    arguments = {
        'train': [config, '--cfg-options', f'load_from={path}'],
        'resume': [config, '--resume', path],
        'test': [config, path],
        'export': [config, path, '--format', 'onnx', '--out', out],
        'vis_attention': [picture, config, path, '--out', tmp_path / 'out'],
    }[tool]
    command = 'train.py' if tool == 'resume' else f'{tool}.py'
    monkeypatch.setattr(sys, 'argv', [command, *map(str, arguments)])
    if tool in ('train', 'resume', 'test'):
        script = importlib.import_module('codebase_script')

        def main():
            script.main(command)

    elif tool == 'export':
        main = importlib.import_module('export').main
    else:
        from nl_plugins.command import run

        vis = importlib.import_module('vis_attention')

        def main():
            run(vis.main)

    path_before = list(sys.path)
    try:
        with pytest.raises(SystemExit) as stop:
            main()
    finally:
        sys.path[:] = path_before
    assert f'the checkpoint {path}' in stop.value.code
    assert stop.value.code.startswith(f'{command}: ') and '\n' not in stop.value.code
    assert re.search(message, stop.value.code)
    assert not out.exists() and not (tmp_path / 'out').exists()
