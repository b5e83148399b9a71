# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every classification config builds, is named by the rules and counts as published."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.config import Config  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmpretrain.registry import HOOKS, MODELS  # noqa: E402

from nl_plugins.analysis.complexity import flop_counter  # noqa: E402
from nl_plugins.graph import force  # noqa: E402

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'classification'
PATHS = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob('*.py')
    if '_base_' not in path.parts
)

# Parameters, giga-MACs at 224x224 (CIFAR: 32x32) with the affinity as a matrix.
COUNTS = {
    'resnet/resnet50_8xb32-100e_in1k.py': (25_557_032, 4.089),
    'resnet/resnet101_8xb32-100e_in1k.py': (44_549_160, 7.801),
    'resnet/resnet152_8xb32-100e_in1k.py': (60_192_808, 11.514),
    'nl/resnet50-nl1_8xb32-100e_in1k.py': (27_656_232, 4.540),
    'nl/resnet101-nl1_8xb32-100e_in1k.py': (46_648_360, 8.252),
    'nl/resnet152-nl1_8xb32-100e_in1k.py': (62_292_008, 11.964),
    'cgnl/resnet50-cgnl1_8xb32-100e_in1k.py': (27_197_480, 4.411),
    'cgnl/resnet101-cgnl1_8xb32-100e_in1k.py': (46_189_608, 8.123),
    'cgnl/resnet152-cgnl1_8xb32-100e_in1k.py': (61_833_256, 11.835),
    'cgnl/resnet50-cgnlx1_8xb32-100e_in1k.py': (27_197_480, 4.411),
    'cgnl/resnet101-cgnlx1_8xb32-100e_in1k.py': (46_189_608, 8.123),
    'cgnl/resnet152-cgnlx1_8xb32-100e_in1k.py': (61_833_256, 11.835),
    'snl/resnet50-snl1_1xb100-110e_in1k.py': (28_180_520, 4.642),
    'snl/resnet101-snl1_1xb100-110e_in1k.py': (47_172_648, None),
    'snl/resnet152-snl1_1xb100-110e_in1k.py': (62_816_296, None),
    'snl/resnet50-snl1_1xb128-310e_cifar10.py': (26_144_330, 1.470),
}
# {module}_{NxbM-schedule}_{data}, words inside a part joined by '-'
NAME = re.compile(r'[a-z0-9-]+_\d+xb\d+-\d+e(-[a-z0-9-]+)?_[a-z0-9-]+\.py')


def test_every_counted_config_exists():
    assert set(COUNTS) <= set(PATHS)


@pytest.mark.parametrize('path', PATHS)
def test_config(path):
    assert NAME.fullmatch(Path(path).name)
    cfg = Config.fromfile(CONFIGS / path)
    assert cfg.custom_imports.imports == ['nl_plugins']
    init_default_scope('mmpretrain')
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes
    for hook in cfg.get('custom_hooks', []):
        assert isinstance(HOOKS.build(hook), Hook)
    batch = int(re.search(r'xb(\d+)', path)[1])
    assert cfg.train_dataloader.batch_size == batch
    epochs = int(re.search(r'-(\d+)e', path)[1])
    assert cfg.train_cfg.max_epochs == epochs

    model = MODELS.build(cfg.model)
    if path not in COUNTS:
        return
    count, giga_macs = COUNTS[path]
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    if giga_macs:
        # Shapes are enough to count; CGNL never has a matrix.
        model = model.to('meta').eval()
        size = 32 if 'cifar' in path else 224
        formulation = 'fast' if 'cgnl' in path else 'dense'
        with flop_counter() as counter, force(formulation):
            model(torch.zeros(1, 3, size, size, device='meta'))
        assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, rel=0.01)


SNL_CIFAR = 'snl/preresnet20-snl1_1xb128-310e_cifar10.py'


def test_recipe_of_snl_on_cifar():
    """1e-3 in the first epoch to 0.1 in the tenth, drops at 160 and 260."""
    cfg = Config.fromfile(CONFIGS / SNL_CIFAR)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.momentum) == (0.1, 0.9)
    assert optimizer.weight_decay == 1e-4
    rates = rates_of(cfg)
    expected = [1e-3 + (0.1 - 1e-3) * min(epoch, 9) / 9 for epoch in range(160)]
    assert rates[:160] == pytest.approx(expected)
    assert rates[160:260] == pytest.approx([0.01] * 100)
    assert rates[260:] == pytest.approx([0.001] * 50)


@pytest.mark.parametrize(
    'path, decay, rates_at',
    [
        (
            'nl/cifar-resnet56_1xb128-200e-wd5e-4_cifar10.py',
            5e-4,
            {0: 0.1, 99: 0.1, 100: 0.01, 150: 0.001},
        ),
        (
            'cifar_resnet/cifar-resnet56_1xb128-200e_cifar10.py',
            1e-4,
            {0: 0.1, 99: 0.1, 100: 0.01, 150: 0.001},
        ),
        (
            'cifar_resnet/cifar-resnet110_1xb128-200e_cifar10.py',
            1e-4,
            {0: 0.01, 1: 0.1, 100: 0.01, 150: 0.001},
        ),
        (
            'snl/resnet50-snl1_1xb100-110e_in1k.py',
            1e-4,
            {0: 1e-5, 9: 0.01, 40: 0.01, 41: 1e-3, 71: 1e-4, 91: 1e-5},
        ),
        (
            'cgnl/resnet50-cgnl1_8xb32-100e_cub.py',
            1e-4,
            {0: 0.01, 30: 0.01, 31: 1e-3, 61: 1e-4, 81: 1e-5},
        ),
    ],
)
def test_recipes(path, decay, rates_at):
    cfg = Config.fromfile(CONFIGS / path)
    assert cfg.optim_wrapper.optimizer.weight_decay == decay
    rates = rates_of(cfg)
    assert {epoch: rates[epoch] for epoch in rates_at} == pytest.approx(rates_at)


def rates_of(cfg):
    """The learning rate of every epoch."""
    from mmengine.registry import PARAM_SCHEDULERS

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = cfg.param_scheduler
    schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
    built = [
        PARAM_SCHEDULERS.build(dict(scheduler, optimizer=optimizer))
        for scheduler in schedulers
    ]
    rates = []
    for _ in range(cfg.train_cfg.max_epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in built:
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    'path, mean',
    [
        ('cifar_resnet/cifar-resnet20_1xb128-200e_cifar10.py', 123.675),
        ('nl/cifar-resnet56_1xb128-200e-wd5e-4_cifar10.py', 125.307),
        ('snl/preresnet56-snl1_1xb128-310e_cifar100.py', 125.307),
    ],
)
def test_normalisation(path, mean):
    cfg = Config.fromfile(CONFIGS / path)
    assert cfg.data_preprocessor.mean[0] == mean
    assert not cfg.data_preprocessor.to_rgb
