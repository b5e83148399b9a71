# Copyright (c) The nl_plugins authors. All rights reserved.
"""Checkpoints of the codebases' zoos load into accelerated networks as they are."""

from __future__ import annotations

import copy
from importlib import import_module

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

import nl_plugins  # noqa: F401
from nl_plugins import accelerate

# Config of the zoo; keys that its published checkpoint has, and their shapes.
ZOO = {
    'mmseg::nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py': {
        'decode_head.nl_block.theta.conv.weight': (256, 512, 1, 1),
        'decode_head.nl_block.conv_out.conv.weight': (512, 256, 1, 1),
        'decode_head.nl_block.conv_out.bn.running_mean': (512,),
    },
    'mmseg::dnlnet/dnl_r50-d8_4xb2-40k_cityscapes-512x1024.py': {
        'decode_head.dnl_block.phi.conv.weight': (256, 512, 1, 1),
        'decode_head.dnl_block.conv_mask.weight': (1, 512, 1, 1),
        'decode_head.dnl_block.conv_mask.bias': (1,),
    },
    'mmseg::danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024.py': {
        'decode_head.pam.query_project.weight': (64, 512, 1, 1),
        'decode_head.pam.value_project.weight': (512, 512, 1, 1),
        'decode_head.pam.gamma.scale': (),
        'decode_head.cam.gamma.scale': (),
    },
    'mmseg::ccnet/ccnet_r50-d8_4xb2-40k_cityscapes-512x1024.py': {
        'decode_head.cca.query_conv.weight': (64, 512, 1, 1),
        'decode_head.cca.value_conv.bias': (512,),
        'decode_head.cca.gamma.scale': (),
    },
    'mmseg::ann/ann_r50-d8_4xb2-40k_cityscapes-512x1024.py': {
        'decode_head.fusion.stages.0.query_project.conv.weight': (256, 2048, 1, 1),
        'decode_head.context.stages.0.out_project.weight': (512, 256, 1, 1),
    },
    'mmseg::ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024.py': {
        'decode_head.1.object_context_block.query_project.1.conv.weight': (
            256,
            256,
            1,
            1,
        ),
        'decode_head.1.object_context_block.out_project.bn.weight': (512,),
    },
    'mmseg::isanet/isanet_r50-d8_4xb2-40k_cityscapes-512x1024.py': {
        'decode_head.global_relation.key_project.1.conv.weight': (256, 256, 1, 1),
        'decode_head.local_relation.output_project.conv.weight': (512, 512, 1, 1),
    },
    'mmaction::recognition/tsm/tsm_imagenet-pretrained-r50-nl-embedded-gaussian_8xb16-'
    '1x1x8-50e_kinetics400-rgb.py': {
        'backbone.layer2.0.non_local_block.g.0.conv.weight': (256, 512, 1, 1, 1),
        'backbone.layer3.4.non_local_block.phi.0.conv.bias': (512,),
    },
    'mmaction::recognition/i3d/i3d_imagenet-pretrained-r50-nl-dot-product_8xb8-32x2x1-'
    '100e_kinetics400-rgb.py': {
        'backbone.layer2.1.non_local_block.theta.conv.weight': (256, 512, 1, 1, 1),
        'backbone.layer3.5.non_local_block.conv_out.bn.weight': (1024,),
    },
    'mmdet::libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py': {
        'neck.1.refine.g.conv.weight': (256, 256, 1, 1),
        'neck.1.refine.conv_out.conv.bias': (256,),
    },
    'mmdet::empirical_attention/faster-rcnn_r50-attn1111_fpn_1x_coco.py': {
        'backbone.layer3.0.gen_attention_block.appr_geom_fc_x.weight': (256, 128),
        'backbone.layer4.2.gen_attention_block.gamma': (1,),
    },
}


@pytest.fixture(autouse=True)
def restore():
    accelerate.undo()
    yield
    accelerate.undo()


def read(name, tmp_path):
    package = name.split('::')[0]
    pytest.importorskip(package)
    path = tmp_path / 'config.py'
    path.write_text(f'_base_ = {name!r}')
    return Config.fromfile(path)


def build(cfg, device='meta'):
    scope = cfg.default_scope
    registry = import_module(f'{scope}.registry')
    with DefaultScope.overwrite_default_scope(scope), torch.device(device):
        return registry.MODELS.build(copy.deepcopy(cfg.model))  # mmseg changes it


@pytest.mark.parametrize('name', ZOO)
def test_keys_and_shapes_of_the_zoo(name, tmp_path):
    cfg = read(name, tmp_path)
    published = build(cfg).state_dict()
    for key, shape in ZOO[name].items():
        assert tuple(published[key].shape) == shape, key
    accelerate.apply()
    model = build(cfg)
    found = model.state_dict()
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in published.items()
    }
    model.load_state_dict(published, strict=True, assign=True)
    if 'ccnet' in name:
        return  # its rows and columns are no matrix: the original computes
    owners = {cls for cls in map(type, model.modules())}
    accelerated = accelerate.accelerated_classes()
    assert any(issubclass(cls, tuple(accelerated)) for cls in owners)


SEGMENTATION = [name for name in ZOO if name.startswith('mmseg')]


@pytest.mark.parametrize('name', SEGMENTATION)
def test_decode_heads_of_the_zoo_give_the_same_numbers(name, tmp_path):
    """The whole head at its published widths, forward and backward, on a small map."""
    from mmengine.model import revert_sync_batchnorm
    from mmseg.registry import MODELS

    cfg = read(name, tmp_path).model.decode_head
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        head = MODELS.build(cfg[1] if isinstance(cfg, list) else cfg)
    head = revert_sync_batchnorm(head).eval()
    for key, parameter in head.named_parameters():
        if key.endswith(('gamma.scale', 'conv_out.bn.weight')):
            torch.nn.init.ones_(parameter)
    maps = [torch.randn(1, c, 12, 20) for c in (256, 512, 1024, 2048)]
    previous = (
        [torch.randn(1, head.num_classes, 12, 20)] if isinstance(cfg, list) else []
    )

    def run():
        inputs = [x.clone().requires_grad_() for x in maps]
        out = head(inputs, *previous)
        out = out[0] if isinstance(out, tuple) else out
        (gradient,) = torch.autograd.grad(out.square().sum(), inputs[-1])
        return out.detach(), gradient

    expected = run()
    accelerate.apply()
    for found, wanted in zip(run(), expected):
        assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max()
