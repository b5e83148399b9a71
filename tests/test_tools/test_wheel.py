# Copyright (c) The nl_plugins authors. All rights reserved.
"""The wheel: what is in it, and one training step a codebase from it."""

import os
import subprocess
import sys
import zipfile

import pytest

CONFIGS = {
    'mmpretrain': 'classification/snl/preresnet20-snl1_1xb32-8e_mini-cifar10.py',
    'mmseg': 'segmentation/snl/snl_r18-d8_1xb4-400_mini-cityscapes-128x256.py',
    'mmaction': 'recognition/rnl/tsm_r18-rnl_1xb8-1x1x8-8e_mini-sthv1-rgb.py',
}

ONE_STEP = """
import importlib.util
import math
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

package, site, path = sys.argv[1:]
config = Config.fromfile(Path(site, 'nl_plugins', '.mim', 'configs', path))
import nl_plugins
from mmengine.optim import OptimWrapper

found = Path(nl_plugins.__file__).resolve()
assert Path(site).resolve() in found.parents, found
init_default_scope(package)
torch.manual_seed(0)
model = MODELS.build(config.model)
blocks = [m for m in model.modules() if isinstance(m, nl_plugins.blocks.NonLocalBlock)]
assert blocks
if package == 'mmpretrain':
    from mmpretrain.structures import DataSample
    inputs = [torch.rand(3, 32, 32) * 255 for _ in range(2)]
    samples = [DataSample().set_gt_label(i) for i in range(2)]
elif package == 'mmseg':
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    inputs = [torch.rand(3, 64, 64) * 255 for _ in range(2)]
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(64, 64)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 19, (1, 64, 64)))
        samples.append(sample)
else:
    from mmaction.structures import ActionDataSample
    inputs = [torch.rand(8, 3, 32, 32) * 255 for _ in range(2)]
    samples = [ActionDataSample().set_gt_label(i) for i in range(2)]
before = [p.clone() for block in blocks for p in block.parameters()]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
losses = model.train_step(
    dict(inputs=inputs, data_samples=samples), OptimWrapper(optimizer)
)
assert math.isfinite(losses['loss'].item()), losses
after = [p for block in blocks for p in block.parameters()]
assert any(not torch.equal(a, b) for a, b in zip(after, before))
"""


def test_what_is_in_the_wheel(wheel, root):
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: info for info in archive.infolist()}
        top = [name for name in files if name.endswith('/top_level.txt')]
        assert archive.read(*top).decode().split() == ['nl_plugins']
    mim = 'nl_plugins/.mim/'
    # Links of the source tree are files here.
    assert not [name for name, info in files.items() if info.external_attr >> 28 == 0xA]
    for folder in ('configs', 'tools'):
        expected = {
            f'{mim}{path.relative_to(root).as_posix()}'
            for path in (root / folder).rglob('*')
            if path.is_file() and '__pycache__' not in path.parts
        }
        found = {name for name in files if name.startswith(f'{mim}{folder}/')}
        # These make the environment of a checkout, or need it.
        left_out = {
            name
            for name in expected
            if name.startswith(
                (f'{mim}tools/env.sh', f'{mim}tools/quickstart', f'{mim}tools/run_')
            )
        }
        assert found == expected - left_out
    assert f'{mim}model-index.yml' in files
    stubs = {'nl_plugins/__init__.pyi', 'nl_plugins/blocks/__init__.pyi'}
    assert stubs <= set(files)
    assert any(name.endswith('metafile.yml') for name in files)
    for name, info in files.items():
        parts = name.split('/')
        assert parts[0] == 'nl_plugins' or parts[0].endswith('.dist-info'), name
        assert '__pycache__' not in parts and not name.endswith(('.pth', '.pyc')), name
        assert info.file_size < 300_000, name
    assert wheel.stat().st_size < 2_000_000


@pytest.mark.parametrize('package', CONFIGS)
def test_one_step_with_the_wheel(package, installed, tmp_path):
    pytest.importorskip(package)
    command = [sys.executable, '-c', ONE_STEP, package, installed, CONFIGS[package]]
    subprocess.run(
        command,
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(installed)),
        check=True,
    )
