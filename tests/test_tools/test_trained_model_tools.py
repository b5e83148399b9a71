# Copyright (c) The nl_plugins authors. All rights reserved.
"""The tools that look into a trained network, on the tiny configs."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).resolve().parent / 'tiny'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Mini data, and a checkpoint of each network whose block is not the identity."""
    pytest.importorskip('cv2')
    folder = tmp_path_factory.mktemp('tools')
    sys.path[:0] = [str(ROOT / 'tools' / 'dataset_converters')]
    try:
        make_mini_data = importlib.import_module('make_mini_data')
    finally:
        sys.path.pop(0)
    arguments = ['--only', 'cityscapes', 'sthv1', '--cityscapes', '5', '2']
    arguments += ['--sthv1', '8', '8', '--out', str(folder / 'data')]
    assert make_mini_data.main(arguments) == 0
    return folder


def checkpoint(folder, name):
    """Weights of the tiny network, all drawn anew."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    config = Config.fromfile(TINY / f'{name}.py')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        with MODELS.switch_scope_and_registry(None) as registry:
            model = registry.build(config.model)
    model.init_weights()
    for block in model.modules():
        if hasattr(block, 'conv_out') and hasattr(block.conv_out, 'norm'):
            for parameter in block.conv_out.parameters():
                torch.nn.init.normal_(parameter)
    path = folder / f'{name}.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


@pytest.fixture
def tool(folder, monkeypatch):
    """Runs a tool where the data lie."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(TINY))
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'analysis_tools'))

    def run(name, *arguments):
        sys.modules.pop(name, None)
        module = importlib.import_module(name)
        module.main([str(argument) for argument in arguments])

    return run


def test_query_dependence(tool, folder, capsys):
    pytest.importorskip('mmseg')
    path, picture = checkpoint(folder, 'segmentation'), folder / 'dependence.png'
    out = folder / 'dependence.json'
    options = ['--batches', 1, '--json', out, '--picture', picture, '--ablate']
    tool('query_dependence', TINY / 'segmentation.py', path, *options)
    found = json.loads(out.read_text())
    printed = capsys.readouterr().out
    for name, block in found['blocks'].items():
        assert f'`{name}`' in printed and 0 <= block['total_variation']['mean'] <= 1
    assert list(found['metrics']) == ['as trained', 'mean_row', 'identity', 'off']
    scores = {json.dumps(metrics) for metrics in found['metrics'].values()}
    assert len(scores) > 2  # other affinities, other predictions
    assert picture.stat().st_size > 1000


def test_receptive_field_and_filters(tool, folder, capsys):
    pytest.importorskip('mmseg')
    path = checkpoint(folder, 'segmentation')
    out, picture = folder / 'reach.json', folder / 'reach.png'
    options = ['--batches', 1, '--json', out, '--picture', picture]
    tool('receptive_field', TINY / 'segmentation.py', path, *options)
    found = json.loads(out.read_text())
    assert found['as it is'] != found['blocks off']
    assert all(field['0.5'] <= field['0.9'] for field in found.values())
    assert '| blocks off |' in capsys.readouterr().out
    assert picture.stat().st_size > 1000
    out, picture = folder / 'filters.json', folder / 'filters.png'
    options = ['--json', out, '--picture', picture]
    tool('filters', TINY / 'segmentation.py', path, *options)
    for states in json.loads(out.read_text()).values():
        assert list(states) == ['before', 'after']
        for state in states.values():
            total = state['smooth'] + state['passing'] + state['sharpen']
            assert total == pytest.approx(1)
        assert states['before']['gain_quantiles'] != states['after']['gain_quantiles']
    assert picture.stat().st_size > 1000


def test_temporal_order(tool, folder, capsys):
    pytest.importorskip('mmaction')
    path, out = checkpoint(folder, 'recognition'), folder / 'order.json'
    tool('temporal_order', TINY / 'recognition.py', path, '--json', out)
    found = json.loads(out.read_text())
    assert list(found) == ['in_order', 'reversed', 'shuffled', 'repeated']
    assert all(0 <= scores['acc/top1'] <= 1 for scores in found.values())
    assert '| reversed |' in capsys.readouterr().out


def test_missing_files_are_named(tool, folder):
    with pytest.raises(SystemExit, match='checkpoint .*nowhere.pth does not exist'):
        tool('query_dependence', TINY / 'segmentation.py', 'nowhere.pth')
