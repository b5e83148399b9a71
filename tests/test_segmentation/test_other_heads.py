# Copyright (c) The nl_plugins authors. All rights reserved.
"""What to do with the heads of stock configs that are not FCN-like."""

import copy

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import Config  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

import nl_plugins  # noqa: E402, F401

_MODELS = {
    'fcn': 'fcn_r50-d8',
    'psp': 'pspnet_r50-d8',
    'aspp': 'deeplabv3_r50-d8',
    'uper': 'upernet_r50',
    'segformer': 'segformer_mit-b0',
    'ocr': 'ocrnet_r50-d8',
    'hrnet': 'fcn_hr18',
}


def _head(kind):
    from mmengine.utils import get_installed_path

    folder = f'{get_installed_path("mmseg")}/.mim/configs/_base_/models'
    head = Config.fromfile(f'{folder}/{_MODELS[kind]}.py').model.decode_head
    if isinstance(head, list):
        head = head[-1]
    head = head.to_dict()
    head['norm_cfg'] = dict(type='BN')
    return head


def _build(cfg):
    from mmseg.registry import MODELS

    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(cfg)


@pytest.mark.parametrize('kind', _MODELS)
def test_by_its_type_or_with_the_remedy(kind):
    inherited = {**_head(kind), 'type': 'SNLHead'}
    if kind == 'fcn':
        assert _build(inherited).nl_block is not None
        return
    if kind == 'hrnet':  # one convolution of 1x1 on all levels joined
        with pytest.raises(ValueError, match='num_convs must be 2'):
            _build(inherited)
        head = _build({**inherited, 'num_convs': 2, 'kernel_size': 3})
        assert head.nl_block is not None
        return
    with pytest.raises(ValueError, match='_delete_=True.*NonLocalNeck') as error:
        _build(inherited)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('kind', _MODELS)
def test_a_neck_goes_before_every_head(kind):
    head = _head(kind)
    widths = head['in_channels']
    widths = [widths] if isinstance(widths, int) else list(widths)
    index = head.get('in_index', -1)
    last = index if isinstance(index, int) else max(index)
    levels = [8] * last + widths if isinstance(index, int) and last > 0 else widths
    neck = dict(type='NonLocalNeck', in_channels=levels, block=dict(type='SNLBlock'))
    neck = _build(neck).eval()
    inputs = [torch.randn(1, width, 8, 8) for width in levels]
    outs = neck(copy.copy(inputs))
    assert all(a.shape == b.shape for a, b in zip(inputs, outs))


def test_near_names_of_options():
    with pytest.raises(ValueError, match="no option 'blok', did you mean 'block'"):
        _build(
            dict(
                type='NonLocalHead',
                blok=dict(type='NLBlock'),
                in_channels=8,
                channels=4,
                num_classes=2,
            )
        )
