# Copyright (c) The nl_plugins authors. All rights reserved.
"""The benchmark scripts: validate, test and train the models of the index."""

import csv
import json
import subprocess
import sys

import pytest
import torch

FOLDER = '.dev_scripts/benchmark_regression/'
MINI = 'preresnet20-snl1_1xb32-8e_mini-cifar10'
SEGMENTATION = 'snl_r18-d8_1xb4-400_mini-cityscapes-128x256'
RECOGNITION = 'c2d_r18-rnl_1xb16-8x4x1-8e_mini-sthv1-rgb'

pytest.importorskip('modelindex')


def load(script, name, monkeypatch):
    module = script(f'{FOLDER}{name}')
    from regression import console

    monkeypatch.setattr(console, '_width', 400)
    return module


@pytest.mark.parametrize(
    'package, name',
    [('mmpretrain', MINI), ('mmseg', SEGMENTATION), ('mmaction', RECOGNITION)],
)
def test_validation(script, monkeypatch, capsys, package, name):
    pytest.importorskip(package)
    valid = load(script, '1-benchmark_valid.py', monkeypatch)
    valid.main(['--models', name[:-2], '--flops'])
    printed = capsys.readouterr().out
    assert f'[1/1] {name}' in printed
    row = next(line for line in printed.splitlines() if name in line and 'PASS' in line)
    assert 'FAIL' not in printed
    from regression import load_models

    metadata = load_models()[name].metadata
    assert f'{metadata.flops:,}' in row and f'{metadata.parameters:,}' in row


def test_validation_says_what_failed(script, monkeypatch, capsys, tmp_path):
    pytest.importorskip('mmpretrain')
    valid = load(script, '1-benchmark_valid.py', monkeypatch)
    with pytest.raises(SystemExit, match=f'1 of 1 models failed: {MINI}'):
        valid.main(['--models', MINI, '--checkpoint-root', str(tmp_path)])
    with pytest.raises(SystemExit, match='no model matches moon; there are'):
        valid.main(['--models', 'moon'])


def test_a_checkpoint_is_tested_and_compared(
    root, script, monkeypatch, capsys, tmp_path
):
    """Preview, one local job, the summary that reads its log."""
    pytest.importorskip('mmpretrain')
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    test = load(script, '2-benchmark_test.py', monkeypatch)
    data, checkpoints = tmp_path / 'data', tmp_path / 'checkpoints'
    subprocess.run(
        [
            sys.executable,
            root / 'tools/dataset_converters/make_mini_data.py',
            *('--only', 'cifar10', '--cifar10', '20', '20', '--out', data),
        ],
        check=True,
        capture_output=True,
    )
    cfg = Config.fromfile(root / f'configs/classification/snl/{MINI}.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    checkpoints.mkdir()
    torch.save({'state_dict': model.state_dict()}, checkpoints / f'{MINI}.pth')

    work_dir = tmp_path / 'work'
    arguments = [str(checkpoints), '--local', '--work-dir', str(work_dir)]
    arguments += ['--models', f'{MINI}*', 'snl_r18-d8']
    options = [f'test_dataloader.dataset.data_root={data / "cifar10"}']
    test.main([*arguments, '--cfg-options', *options])
    printed = capsys.readouterr().out
    assert 'This was a preview' in printed
    assert f'1 models have no checkpoint in {checkpoints}: {SEGMENTATION}' in printed
    job = (work_dir / MINI / 'job.sh').read_text()
    assert f'tools/test.py configs/classification/snl/{MINI}.py' in job
    assert 'env_cfg.dist_cfg.port=29666' in job and '--launcher=none' in job
    assert not list(work_dir.glob('*/*/'))

    test.main([*arguments, '--run', '--cfg-options', *options])
    capsys.readouterr()
    test.main([*arguments, '--summary', '--save'])
    row = next(x for x in capsys.readouterr().out.splitlines() if MINI in x)
    with (work_dir / 'test_benchmark_summary.csv').open() as file:
        saved = {line['Name']: line for line in csv.DictReader(file)}
    assert saved[MINI]['Top 1 Accuracy (expect)'] == '80.80'
    measured = float(saved[MINI]['Top 1 Accuracy'])
    assert 0 <= measured < 80 and measured % 5 == 0  # of twenty images
    assert f'{measured:.2f}' in row
    assert saved[SEGMENTATION]['mIoU'] == ''


def write_log(folder, name, *lines):
    path = folder / '20260101_000000' / name
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(json.dumps(line) for line in lines))


def test_scales_of_the_codebases(script, monkeypatch, tmp_path):
    load(script, '2-benchmark_test.py', monkeypatch)
    from regression import metrics_of, read_log

    assert metrics_of({'acc/top1': 0.463, 'acc/top5': 1}) == {
        'Top 1 Accuracy': pytest.approx(46.3),
        'Top 5 Accuracy': 100,
    }
    assert metrics_of({'accuracy/top1': 80.8}) == {'Top 1 Accuracy': 80.8}
    assert metrics_of({'mIoU': 41.8, 'aAcc': 70}) == {'mIoU': 41.8}
    assert metrics_of({'loss': 1.0}) == {}
    assert read_log(tmp_path, '*.json') is None
    write_log(tmp_path, '20260101_000000.json', {'loss': 1.0}, {'mIoU': 41.8})
    assert read_log(tmp_path, '*.json')[1] == [{'mIoU': 41.8}]


def test_training_preview_and_summary(script, monkeypatch, capsys, tmp_path):
    train = load(script, '3-benchmark_train.py', monkeypatch)
    common = ['--work-dir', str(tmp_path)]
    train.main([*common, '--local', '--range', '<=half-year'])
    printed = capsys.readouterr().out
    assert 'This was a preview' in printed
    job = (tmp_path / 'resnet50-cgnl1_8xb32-100e_cub' / 'job.sh').read_text()
    assert '--nproc_per_node=8 tools/train.py' in job and '--launcher=pytorch' in job
    train.main([*common, '--quotatype', 'spot'])
    assert 'sbatch' in capsys.readouterr().out
    job = (tmp_path / MINI / 'job.sh').read_text()
    assert 'srun python' in job and '#SBATCH --quotatype spot' in job

    name = 'tsm_r18-rnl_1xb8-1x1x8-8e_mini-sthv1-rgb'
    values = [{'acc/top1': top1, 'step': i} for i, top1 in enumerate((0.2, 0.5, 0.4))]
    write_log(
        tmp_path / name, 'vis_data/scalars.json', {'loss': 2.0, 'step': 1}, *values
    )
    train.main([*common, '--models', 'tsm', '--summary', '--save'])
    (row,) = csv.DictReader((tmp_path / 'benchmark_summary.csv').open())
    assert row['Name'] == name
    from regression import load_models

    (result,) = load_models()[name].results
    expected = result.metrics['Top 1 Accuracy']
    assert row['Top 1 Accuracy (expect)'] == f'{expected:.2f}'
    assert row['Top 1 Accuracy (last)'] == '40.00'
    assert row['Top 1 Accuracy (best)'] == '50.00 (2)'
    assert row['Log'].endswith('scalars.json')


def test_ranges(script, monkeypatch):
    train = load(script, '3-benchmark_train.py', monkeypatch)
    assert train.cycles('month') == {'month'}
    assert train.cycles('half-year') == {'month', 'quarter', 'half-year'}
    assert train.cycles('>quarter') == {'half-year', 'no-training'}
    assert train.cycles('=quarter') == {'quarter'}
    for text in ('year', '<month'):
        with pytest.raises(train.argparse.ArgumentTypeError):
            train.cycles(text)


def test_where_checkpoints_are_found(script, monkeypatch, tmp_path):
    load(script, '2-benchmark_test.py', monkeypatch)
    from types import SimpleNamespace

    from checkpoints import find_checkpoint

    model = SimpleNamespace(name='net', weights=None)
    assert find_checkpoint(model, tmp_path) is None
    (tmp_path / 'net').mkdir()
    (tmp_path / 'net/epoch_3.pth').touch()
    (tmp_path / 'net/last_checkpoint').write_text('elsewhere/epoch_3.pth')
    assert find_checkpoint(model, tmp_path) == tmp_path / 'net/epoch_3.pth'
    published = tmp_path / 'net_20260101-0123abcd.pth'
    published.touch()
    (tmp_path / 'net_other_20260101-0123abcd.pth').touch()
    assert find_checkpoint(model, tmp_path) == published
    (tmp_path / 'net.pth').touch()
    assert find_checkpoint(model, tmp_path) == tmp_path / 'net.pth'
    model.weights = 'https://example.org/best.pth'
    (tmp_path / 'best.pth').touch()
    assert find_checkpoint(model, tmp_path) == tmp_path / 'best.pth'
