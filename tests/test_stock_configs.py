# Copyright (c) The nl_plugins authors. All rights reserved.
"""Unmodified stock configs build and train with one line more: custom_imports."""

import os
import subprocess
import sys

import pytest

ONE_STEP = """
import math
import sys

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

package, path = sys.argv[1:]
config = Config.fromfile(path)
init_default_scope(config.default_scope)
assert 'nl_plugins' in sys.modules
others = {'mmpretrain', 'mmseg', 'mmaction', 'mmdet'} - {package}
assert not others & set(sys.modules), 'reading a config imported another codebase'

from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper

torch.manual_seed(0)
# As the Runner does in one process.
model = revert_sync_batchnorm(MODELS.build(config.model))
if package == 'mmpretrain':
    from mmpretrain.structures import DataSample
    inputs = [torch.rand(3, 32, 32) * 255 for _ in range(2)]
    samples = [DataSample().set_gt_label(i) for i in range(2)]
elif package == 'mmseg':
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    # The stock crop of 512 x 1024 would take a CPU half a minute.
    model.data_preprocessor.size = (64, 64)
    inputs = [torch.rand(3, 64, 64) * 255 for _ in range(2)]
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(64, 64)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 19, (1, 64, 64)))
        samples.append(sample)
else:
    from mmaction.structures import ActionDataSample
    shape = (8, 3, 32, 32) if 'tsm' in path else (1, 3, 8, 32, 32)
    inputs = [torch.rand(shape) * 255 for _ in range(2)]
    samples = [ActionDataSample().set_gt_label(i) for i in range(2)]

blocks = [name for name, m in model.named_modules() if 'NonLocal' in type(m).__name__]
assert bool(blocks) == (package != 'mmpretrain'), blocks
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
losses = model.train_step(
    dict(inputs=inputs, data_samples=samples), OptimWrapper(optimizer)
)
assert math.isfinite(losses['loss'].item()), losses
# mmaction imports mmpretrain on its own; we add nobody's models to that.
from nl_plugins.codebases import CODEBASES
for other in others:
    assert CODEBASES[other].adapter not in sys.modules, other
# Our names are there in the same scope.
import nl_plugins
for name in ('SNLBlock', 'NonLocalBackbone'):
    assert MODELS.get(name) is getattr(nl_plugins, name)
"""


@pytest.mark.parametrize(
    'package, config',
    [
        ('mmpretrain', 'resnet/resnet18_8xb16_cifar10.py'),
        ('mmseg', 'nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
        (
            'mmaction',
            'recognition/tsm/tsm_imagenet-pretrained-r50-nl-dot-product_'
            '8xb16-1x1x8-50e_kinetics400-rgb.py',
        ),
        (
            'mmaction',
            'recognition/i3d/i3d_imagenet-pretrained-r50-nl-embedded-gaussian_'
            '8xb8-32x2x1-100e_kinetics400-rgb.py',
        ),
    ],
    ids=lambda value: value.split('/')[-1].split('_')[0],
)
def test_a_stock_config_takes_one_step(package, config, root, tmp_path):
    pytest.importorskip(package)
    path = tmp_path / config.split('/')[-1]
    path.write_text(
        f"_base_ = '{package}::{config}'\n"
        "custom_imports = dict(imports=['nl_plugins'], allow_failed_imports=False)\n"
    )
    subprocess.run(
        [sys.executable, '-c', ONE_STEP, package, str(path)],
        env=dict(os.environ, PYTHONPATH=str(root)),
        check=True,
    )
