# Copyright (c) The nl_plugins authors. All rights reserved.
"""The quickstart: its configs learn, its failures explain themselves."""

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from loaders import in_process

SIZES = [
    '--cifar10', '40', '20', '--cityscapes', '8', '3',
    '--kinetics400', '8', '4', '--sthv1', '8', '4', '--coco', '8', '4',
]  # fmt: skip
SCOPES = dict(
    classification='mmpretrain',
    segmentation='mmseg',
    recognition='mmaction',
    detection='mmdet',
)


@pytest.fixture
def quickstart(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'tools'))
    return importlib.import_module('quickstart')


@pytest.fixture(scope='module')
def mini(root, tmp_path_factory):
    """A folder in which ``data/mini`` holds tiny versions of the five sets."""
    cwd = tmp_path_factory.mktemp('cwd')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / 'tools' / 'dataset_converters'))
        make = importlib.import_module('make_mini_data')
        assert make.main(['--out', str(cwd / 'data' / 'mini'), *SIZES]) == 0
    return cwd


def test_help_needs_no_environment(root, tmp_path):
    result = subprocess.run(
        ['bash', str(root / 'tools' / 'quickstart.sh'), '--help'],
        env=dict(
            os.environ, PYTHON=sys.executable, NL_PLUGINS_VENV=str(tmp_path / 'v')
        ),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert '--task {classification,segmentation,recognition,detection}' in result.stdout
    assert not (tmp_path / 'v').exists()


def test_tasks_name_what_exists(quickstart, root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'tools' / 'dataset_converters'))
    sets = importlib.import_module('make_mini_data').SETS
    assert {task.data for task in quickstart.TASKS} == set(sets)
    assert {task.name for task in quickstart.TASKS} == set(SCOPES)
    for task in quickstart.TASKS:
        assert (root / 'configs' / task.config).is_file()


@pytest.mark.parametrize('number', range(5))
def test_configs_take_a_training_step_and_predict(
    quickstart, root, mini, monkeypatch, number
):
    task = quickstart.TASKS[number]
    scope = SCOPES[task.name]
    pytest.importorskip(scope)
    if task.data == 'kinetics400':
        pytest.importorskip('decord')
    from mmengine.config import Config
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DefaultScope

    from nl_plugins.blocks import BLOCKS

    monkeypatch.chdir(mini)
    cfg = Config.fromfile(root / 'configs' / task.config)
    assert cfg.default_scope == scope
    registry = importlib.import_module(f'{scope}.registry')
    with DefaultScope.overwrite_default_scope(scope):
        model = registry.MODELS.build(cfg.model)
        model.init_weights()
        assert any(isinstance(m, tuple(BLOCKS.values())) for m in model.modules())
        dataset = registry.DATASETS.build(cfg.train_dataloader.dataset)
        data = pseudo_collate([dataset[i] for i in range(4)])
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        data = model.data_preprocessor(data, training=True)
        losses = model(**data, mode='loss')
        loss, logged = model.parse_losses(losses)
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss) and loss > 0.5
        missing = [n for n, p in model.named_parameters() if p.grad is None]
        assert missing == []
        test = registry.DATASETS.build(cfg.test_dataloader.dataset)
        model.eval()
        with torch.no_grad():
            results = model.test_step(pseudo_collate([test[0], test[1]]))
    assert len(results) == 2


def test_one_task_from_training_to_pictures(quickstart, root, mini, tmp_path):
    """Segmentation, three iterations: row, checkpoint, pictures with content."""
    pytest.importorskip('mmseg')
    task = next(task for task in quickstart.TASKS if task.name == 'segmentation')
    data = f'{mini}/data/mini/cityscapes'
    overrides = ['train_cfg.max_iters=3', 'train_cfg.val_interval=3']
    overrides += [
        'default_hooks.checkpoint.interval=3',
        'train_dataloader.batch_size=2',
    ]
    for loader in ('train', 'val', 'test'):
        overrides.append(f'{loader}_dataloader.dataset.data_root={data}')
    overrides += in_process('train', 'val', 'test')
    row = quickstart.run_task(task, tmp_path, overrides)
    assert tuple(row) == quickstart.KEYS
    assert row['blocks'] == 'SNLBlock' and 0 <= row['value'] <= 100
    assert 1 < row['chance'] < 15  # one of 19 classes, guessed blindly
    work_dir = tmp_path / task.folder
    for name in ('train.log', 'test.log', 'pictures.log', 'last_checkpoint'):
        assert (work_dir / name).stat().st_size > 0
    import matplotlib.image

    for name in ('prediction.png', 'attention.png'):
        picture = matplotlib.image.imread(work_dir / name)[..., :3]
        assert picture.shape[0] > 224 and picture.shape[1] > 400
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000


def test_a_failed_step_names_itself_and_keeps_its_log(quickstart, tmp_path):
    code = 'print("first"); print("the reason"); raise SystemExit(3)'
    log = tmp_path / 'sub' / 'train.log'
    with pytest.raises(quickstart.StepError) as failure:
        quickstart.run_step('train', [sys.executable, '-c', code], log)
    message = str(failure.value)
    assert "step 'train' failed: exit status 3" in message
    assert '| the reason' in message and str(log) in message
    assert log.read_text() == 'first\nthe reason\n'


def fake_row(quickstart, task, value):
    values = (task.name, f'configs/{task.config}', 'B', task.label, value, 1.0, 2.0)
    return dict(zip(quickstart.KEYS, values))


def test_one_failure_leaves_the_other_results(
    quickstart, tmp_path, monkeypatch, capsys
):
    tasks = quickstart.TASKS

    def run_task(task, out, overrides):
        if task is tasks[1]:
            raise quickstart.StepError('test', out / 'test.log', 'exit status 1')
        return fake_row(quickstart, task, 50.0)

    monkeypatch.setattr(quickstart, 'run_task', run_task)
    monkeypatch.setattr(quickstart, 'run_step', lambda *args: None)
    assert quickstart.main(['--out', str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    rows = json.loads((tmp_path / 'summary.json').read_text())
    assert [row['config'] for row in rows] == [
        f'configs/{task.config}' for task in tasks if task is not tasks[1]
    ]
    assert all(tuple(row) == quickstart.KEYS for row in rows)
    assert 'segmentation' in err and "step 'test' failed" in err
    assert str(tmp_path / 'test.log') in err
    assert out.count('50.0') == len(tasks) - 1

    # the failed task alone: its row joins the ones that are there
    monkeypatch.setattr(
        quickstart, 'run_task', lambda task, *_: fake_row(quickstart, task, 60.0)
    )
    assert quickstart.main(['--out', str(tmp_path), '--task', 'segmentation']) == 0
    rows = json.loads((tmp_path / 'summary.json').read_text())
    assert [row['value'] for row in rows] == [50.0, 60.0, *[50.0] * (len(tasks) - 2)]


def test_summary_forgets_configs_that_are_gone(quickstart, tmp_path):
    path = tmp_path / 'summary.json'
    row = fake_row(quickstart, quickstart.TASKS[0], 1.0)
    path.write_text(json.dumps([row, dict(row, config='configs/old.py')]))
    assert quickstart.read_summary(path) == [row]
    path.write_text('[{')
    assert quickstart.read_summary(path) == []
    assert quickstart.read_summary(tmp_path / 'none.json') == []


def test_the_metric_comes_from_the_newest_test(quickstart, tmp_path):
    task = quickstart.TASKS[2]
    for stamp, value in (('20260101_000000', 0.25), ('20260102_000000', 0.5)):
        (tmp_path / stamp).mkdir()
        (tmp_path / stamp / f'{stamp}.json').write_text(
            json.dumps({task.metric: value})
        )
    assert quickstart.read_metric(task, tmp_path, tmp_path / 'l') == 50.0
    with pytest.raises(quickstart.StepError, match='wrote no'):
        quickstart.read_metric(task, tmp_path / 'none', tmp_path / 'l')


def test_unknown_task_is_refused(quickstart, capsys):
    with pytest.raises(SystemExit) as stop:
        quickstart.parse_args(['--task', 'tracking'])
    assert stop.value.code == 2
    assert 'classification' in capsys.readouterr().err


def test_chance_levels(root, monkeypatch):
    pytest.importorskip('matplotlib')
    pytest.importorskip('nl_plugins.analysis')
    monkeypatch.syspath_prepend(str(root / 'tools' / 'visualization'))
    pictures = importlib.import_module('quickstart_pictures')
    assert pictures.chance_of_labels([0, 1, 1, 2]) == 50.0
    labels = np.repeat(np.arange(3), (6, 2, 2)).reshape(2, 5)
    labels = np.concatenate([labels, np.full((1, 5), 255)])
    # guesses drawn with the frequencies: IoU p / (2 - p) for each class
    expected = 100 * np.mean([0.6 / 1.4, 0.2 / 1.8, 0.2 / 1.8])
    assert pictures.chance_of_maps([labels], 3) == pytest.approx(expected)
    # one class nearly everywhere: naming it always is the better guess
    labels = np.repeat(np.arange(2), (98, 2))
    drawn = np.mean([0.98 / 1.02, 0.02 / 1.98])
    assert pictures.chance_of_maps([labels], 2) == pytest.approx(100 * max(0.49, drawn))
