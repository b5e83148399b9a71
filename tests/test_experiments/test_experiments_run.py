# Copyright (c) The nl_plugins authors. All rights reserved.
"""The experiments run, on data of a few pictures, and go on after an interruption."""

import json
import sys

import numpy as np
import pytest
from PIL import Image


def call(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', [module.__name__, *map(str, arguments)])
    module.main()


def test_cifar_places(script, tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain')
    module = script('cifar_places')
    draw, data = np.random.default_rng(0), {}
    for part, count in (('train', 8), ('test', 4)):
        data[f'{part}_data'] = draw.integers(256, size=(count, 3072), dtype=np.uint8)
        data[f'{part}_labels'] = np.arange(count, dtype=np.uint8)
    np.savez(tmp_path / 'data.npz', **data)
    options = ['--data', tmp_path / 'data.npz', '--out', tmp_path / 'out.json']
    options += ['--epochs', 1, '--batch-size', 4, '--size', 16, '--width', 4]
    names = ['none', 'control stage 1', 'CGNL stage 2', 'SNL stage 3']
    call(module, monkeypatch, *options, '--seeds', 0, '--networks', *names)
    first = json.loads((tmp_path / 'out.json').read_text())['runs']
    assert [run['variant'] for run in first] == names
    assert set(first[3]['ablated']) == {'mean_row', 'identity', 'off'}
    assert first[0]['parameters'] < first[1]['parameters']
    call(module, monkeypatch, *options, '--seeds', 0, 1, '--networks', 'none')
    second = json.loads((tmp_path / 'out.json').read_text())['runs']
    assert second[:4] == first and len(second) == 5


def test_camvid(script, tmp_path, monkeypatch):
    pytest.importorskip('mmseg')
    draw = np.random.default_rng(0)
    for part, count in (('train', 3), ('test', 2)):
        for kind in ('images', 'labels'):
            (tmp_path / 'camvid' / kind / part).mkdir(parents=True)
        for index in range(count):
            picture = draw.integers(256, size=(36, 48, 3), dtype=np.uint8)
            label = draw.integers(12, size=(36, 48), dtype=np.uint8)
            folder = tmp_path / 'camvid'
            Image.fromarray(picture).save(folder / 'images' / part / f'{index}.jpg')
            Image.fromarray(label).save(folder / 'labels' / part / f'{index}.png')
    heads, analysis = script('camvid_heads'), script('camvid_analysis')
    common = ['--data', tmp_path / 'camvid', '--work-dir', tmp_path / 'weights']
    common += ['--seeds', 0, '--channels', 16]
    options = ['--iterations', 2, '--backbone-iterations', 1, '--batch-size', 2]
    options += ['--heads', 'FCN', 'control', 'SNL', '--out', tmp_path / 'heads.json']
    call(heads, monkeypatch, *common, *options)
    runs = json.loads((tmp_path / 'heads.json').read_text())['runs']
    assert [run['variant'] for run in runs] == ['FCN', 'control', 'SNL']
    assert all(len(run['iou']) == 11 for run in runs)
    out = tmp_path / 'analysis.json'
    options = ['--out', out, '--reach-images', 2, '--pictures', tmp_path]
    call(analysis, monkeypatch, *common, *options)
    found = {run['variant']: run for run in json.loads(out.read_text())['runs']}
    assert set(found) == {'FCN', 'control', 'SNL'} and 'iou' not in found['control']
    trained = np.mean(found['SNL']['iou']['as trained'])
    # The weights are kept in half precision.
    assert trained == pytest.approx(runs[2]['miou'], abs=0.5)
    for name in ('reach', 'filters'):
        assert (tmp_path / f'findings_{name}.png').stat().st_size > 1000


def test_video_order_knows_its_networks(script, tmp_path):
    pytest.importorskip('mmaction')
    module = script('video_order')
    args = type('Args', (), dict(work_dir=tmp_path, epochs=3))
    for name in module.NETWORKS:
        config = module.network_config(args, tmp_path / 'data', 1, name)
        assert config.randomness.seed == 1 and config.train_cfg.max_epochs == 3
        assert ('inserts' in config.model.backbone) == ('+' in name)
        assert str(tmp_path / 'data') in config.train_dataloader.dataset.ann_file
