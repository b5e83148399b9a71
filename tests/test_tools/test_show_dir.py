# Copyright (c) The nl_plugins authors. All rights reserved.
"""Pictures of tools/test.py: the codebase's own, and where the blocks look."""

import os
import subprocess
import sys

import pytest
import torch
from loaders import in_process

# Codebase, config, mini set and its sizes, pictures of --show-dir.
RUNS = [
    (
        'mmseg',
        'segmentation/snl/snl_r18-d8_1xb4-400_mini-cityscapes-128x256.py',
        ('cityscapes', 5, 2),
        2,
    ),
    (
        'mmaction',
        'recognition/rnl/tsm_r18-rnl_1xb8-1x1x8-8e_mini-sthv1-rgb.py',
        ('sthv1', 8, 2),
        0,  # mmaction's own hook passes an option that its visualiser does not know
    ),
    (
        'mmdet',
        'detection/snl/retinanet_r18-snl1_fpn_1xb8-12e_mini-coco.py',
        ('coco', 5, 2),
        2,
    ),
]


@pytest.mark.parametrize(
    'package, config, data, count', RUNS, ids=[run[0] for run in RUNS]
)
def test_pictures_of_a_small_set(root, tmp_path, package, config, data, count):
    pytest.importorskip(package)
    name, train, test = data
    command = [sys.executable, root / 'tools/dataset_converters/make_mini_data.py']
    launch(tmp_path, *command, '--only', name, f'--{name}', train, test)
    (tmp_path / 'config.py').write_text(
        f'_base_ = {str(root / "configs" / config)!r}\n'
        "custom_hooks = [dict(type='NonLocalVisualizationHook', enable=True)]\n"
    )
    content = dict(state_dict=dict(unknown=torch.zeros(1)), meta={})
    torch.save(content, tmp_path / 'nothing.pth')
    options = in_process('test')
    command = [sys.executable, root / 'tools/test.py', 'config.py', 'nothing.pth']
    show = ['--show-dir', 'shown'] if count else []
    command += ['--work-dir', 'run', *show, '--cfg-options', *options]
    launch(tmp_path, *command)
    pictures = [
        path
        for path in tmp_path.rglob('*')
        if path.suffix in ('.png', '.jpg') and 'data' not in path.parts
    ]
    ours = [path for path in pictures if path.name.startswith('attention_test_0_')]
    assert ours
    # mmdet puts the folder into that of the run.
    shown = [path for path in pictures if 'shown' in path.parts]
    assert len(set(shown) - set(ours)) == count


def launch(folder, *command):
    result = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-4000:]
