# Copyright (c) The nl_plugins authors. All rights reserved.
"""A classifier and a recogniser that look at colours alone."""

import textwrap

import cv2
import numpy as np
import pytest
import torch

BACKBONE = '''
import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.registry import MODELS


@MODELS.register_module(force=True)
class Colours(BaseModule):
    """The means of 4 x 4 cells; so a gaussian block compares colours."""

    def __init__(self, ndim=2, **kwargs):
        super().__init__()
        pool = nn.AvgPool3d((1, 4, 4)) if ndim == 3 else nn.AvgPool2d(4)
        self.cells = nn.Sequential(pool)
        self.ndim = ndim

    def forward(self, x):
        x = self.cells(x)
        return (x,) if self.ndim == 2 else x
'''

CLASSIFIER = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['nl_plugins', 'colours_backbone'],
                      allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=2, mean=[127.5] * 3, std=[100.0] * 3,
                           to_rgb=True),
    backbone=dict(
        type='NonLocalBackbone', backbone=dict(type='Colours'),
        inserts=[dict(after='cells', cfg=dict(
            type='NLBlock', mode='gaussian', in_channels=3, reduction=1))]),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=3))
test_dataloader = dict(dataset=dict(type='CustomDataset', pipeline=[
    dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
"""

RECOGNISER = """
default_scope = 'mmaction'
custom_imports = dict(imports=['nl_plugins', 'colours_backbone'],
                      allow_failed_imports=False)
model = dict(
    type='Recognizer3D',
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[127.5] * 3,
                           std=[100.0] * 3, format_shape='NCTHW'),
    backbone=dict(
        type='NonLocalBackbone', backbone=dict(type='Colours', ndim=3),
        inserts=[dict(after='cells', cfg=dict(
            type='NLBlock', ndim=3, mode='gaussian', in_channels=3, reduction=1))]),
    cls_head=dict(type='I3DHead', num_classes=2, in_channels=3, dropout_ratio=0))
test_pipeline = [
    dict(type='OpenCVInit', num_threads=1),
    dict(type='SampleFrames', clip_len=4, frame_interval=1, num_clips=1,
         test_mode=True),
    dict(type='OpenCVDecode'),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs')]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""


def picture(square_at):
    """Blue ground with a red square of 16 x 16 at (row, column), RGB, 64 x 96."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[..., 2] = 200
    row, column = square_at
    image[row : row + 16, column : column + 16] = (220, 0, 0)
    return image


@pytest.fixture(scope='session')
def colours(tmp_path_factory):
    """A folder with the backbone, two configs, two checkpoints, two inputs."""
    folder = tmp_path_factory.mktemp('colours')
    (folder / 'colours_backbone.py').write_text(textwrap.dedent(BACKBONE))
    (folder / 'image.py').write_text(CLASSIFIER)
    (folder / 'clip.py').write_text(RECOGNISER)
    fc = dict(weight=torch.zeros(2, 3), bias=torch.zeros(2))
    heads = {'image': 'head.fc', 'clip': 'cls_head.fc_cls'}
    for name, head in heads.items():
        state = {f'{head}.{key}': value for key, value in fc.items()}
        torch.save(dict(state_dict=state, meta={}), folder / f'{name}.pth')
    cv2.imwrite(str(folder / 'image.png'), picture((16, 32))[..., ::-1])
    writer = cv2.VideoWriter(
        str(folder / 'clip.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 4, (96, 64)
    )
    for frame in range(4):  # the square moves to the right
        writer.write(picture((16, 16 * frame))[..., ::-1].copy())
    writer.release()
    return folder
