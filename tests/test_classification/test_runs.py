# Copyright (c) The nl_plugins authors. All rights reserved.
"""Whole runs: training, testing, what CheckRunHook refuses, and published weights."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from loaders import in_process

pytest.importorskip('mmpretrain')

from mmengine.config import Config  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs' / 'classification'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Eight images a batch."""
    root = tmp_path_factory.mktemp('data')
    batches = root / 'cifar-10-batches-py'
    batches.mkdir()
    rng = np.random.default_rng(0)
    for name in [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch']:
        data = rng.integers(0, 256, (8, 3072), dtype=np.uint8)
        content = dict(data=data, labels=rng.integers(0, 10, 8).tolist())
        (batches / name).write_bytes(pickle.dumps(content, protocol=2))
    names = dict(label_names=[str(i) for i in range(10)])
    (batches / 'batches.meta').write_bytes(pickle.dumps(names, protocol=2))
    return root


def config(folder, work_dir, path='snl/preresnet20-snl1_1xb64-10e_cifar10-subset.py'):
    cfg = Config.fromfile(CONFIGS / path)
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        loader.update(batch_size=8, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(folder)
        loader.collate_fn = dict(type='default_collate')
    cfg.work_dir = str(work_dir)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.param_scheduler = None
    cfg.log_level = 'WARNING'
    return cfg


@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory):
    """A run of one epoch, with the augmentation on the device."""
    work_dir = tmp_path_factory.mktemp('run')
    cfg = config(folder, work_dir)
    cfg.train_dataloader.dataset.pipeline = [dict(type='PackInputs')]
    cfg.model.data_preprocessor = dict(
        cfg.data_preprocessor, type='BatchAugmentDataPreprocessor'
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert np.isfinite(losses).all() and len(losses) == 5
    return work_dir / 'epoch_1.pth'


def run_test(cfg, checkpoint):
    cfg.load_from = str(checkpoint)
    return Runner.from_cfg(cfg).test()


def test_trained_weights_test(folder, trained, tmp_path):
    metrics = run_test(config(folder, tmp_path), trained)
    assert 0 <= metrics['accuracy/top1'] <= 100


def test_another_network_is_refused(folder, trained, tmp_path):
    other = config(
        folder, tmp_path, 'cifar_resnet/cifar-resnet20_1xb128-200e_cifar10-subset.py'
    )
    with pytest.raises(ValueError, match='does not fit the model: .* weights differ'):
        run_test(other, trained)
    foreign = tmp_path / 'foreign.pth'
    torch.save({'state_dict': {'features.0.weight': torch.ones(3)}}, foreign)
    with pytest.raises(ValueError, match='is of another network.*model_converters'):
        run_test(config(folder, tmp_path), foreign)


def test_a_truncated_checkpoint_is_refused(folder, trained, tmp_path):
    short = tmp_path / 'short.pth'
    short.write_bytes(trained.read_bytes()[:-1000])
    with pytest.raises(ValueError, match='short.pth is truncated: copy or download'):
        run_test(config(folder, tmp_path), short)


def test_class_counts(folder, trained, tmp_path):
    cfg = config(folder, tmp_path)
    cfg.model.head.num_classes = 7
    with pytest.raises(ValueError, match='10 classes, but the head has num_classes=7'):
        Runner.from_cfg(cfg).train()
    wide = config(folder, tmp_path)
    wide.model.head.num_classes = 1000
    with pytest.raises(ValueError, match='set model.head.num_classes=10'):
        Runner.from_cfg(wide).train()
    # The 1000 outputs of the SNL repository are an option; training may also start
    # from weights with another classifier.
    wide.custom_hooks[0].spare_classes = True
    wide.load_from = str(trained)
    runner = Runner.from_cfg(wide)
    runner.train()
    assert runner.model.head.fc.weight.shape == (1000, 64)


@pytest.mark.parametrize(
    'depth, name, correct', [(20, '12fca82f', 932), (56, '4bfd9763', 943)]
)
def test_published_weights(depth, name, correct, shared, tmp_path, monkeypatch):
    """akamaster's ResNets on 1017 original test images; 20 through both tools."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'model_converters'))
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'dataset_converters'))
    from cifar_format import write_cifar10
    from classification_to_mmpretrain import main

    data = np.load(shared / 'data' / 'cifar10_subset.npz')
    names = ('train_data', 'train_labels', 'test_data', 'test_labels')
    write_cifar10(tmp_path, *(data[key] for key in names))
    source = shared / 'data' / 'checkpoints' / f'resnet{depth}-{name}.th'
    out = tmp_path / 'converted.pth'
    monkeypatch.setattr(sys, 'argv', ['converter', str(source), str(out)])
    main()
    path = f'cifar_resnet/cifar-resnet{depth}_1xb128-200e_cifar10-subset.py'
    if depth == 20:
        metrics = tool_test(CONFIGS / path, out, tmp_path)
    else:
        cfg = config(tmp_path, tmp_path, path)
        cfg.test_dataloader.batch_size = 113
        metrics = run_test(cfg, out)
    assert metrics['accuracy/top1'] * 1017 / 100 == pytest.approx(correct, abs=0.01)


def tool_test(path, checkpoint, folder):
    """Metrics of ``tools/test.py`` in a process of its own."""
    out = folder / 'metrics.json'
    command = [sys.executable, ROOT / 'tools' / 'test.py', path, checkpoint]
    command += ['--work-dir', folder, '--out', out, '--out-item', 'metrics']
    command += ['--cfg-options', f'test_dataloader.dataset.data_root={folder}']
    command += in_process('test')
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text())
