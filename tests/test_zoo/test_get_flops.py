# Copyright (c) The nl_plugins authors. All rights reserved.
"""Multiply-adds: formulas by hand, published tables, the table of the blocks."""

import re

import pytest
import torch
from torch import nn

from nl_plugins import graph
from nl_plugins.analysis import model_complexity
from nl_plugins.blocks import BLOCKS
from nl_plugins.graph import force

N, C, P = 16 * 12, 32, 16  # positions, channels, inner channels


def block_macs(name, x=(1, C, 16, 12), formulation='fast', device='meta', **options):
    block = BLOCKS[name](x[1], ndim=len(x) - 2, **options).to(device)
    with graph.force(formulation):
        return model_complexity(block, torch.zeros(x, device=device))


@pytest.mark.parametrize('device', ['meta', 'cpu'])
def test_fused_attention_is_counted(device):
    result = block_macs('NLBlock', device=device)
    assert result.macs == N * 4 * C * P + 2 * N * N * P
    assert result.parameters == 4 * C * P + 3 * P + C


@pytest.mark.parametrize('device', ['meta', 'cpu'])
def test_an_operator_counts_what_it_multiplies(device):
    """SNL: degrees, context and result instead of the matrix, output folded in."""
    fast = block_macs('SNLBlock', device=device, norm_cfg=None)
    dense = block_macs('SNLBlock', device=device, formulation='dense', norm_cfg=None)
    assert dense.macs - fast.macs > 2 * N * N * P - 8 * N * C * P
    (row,) = fast.blocks
    assert (row.queries, row.keys) == (N, N)
    assert row.matrix == 4 * N * N
    assert row.held == 4 * 2 * N * P  # θ and φ
    (row,) = dense.blocks
    assert row.held == row.matrix


def test_batch_and_dimensions():
    one = block_macs('NLBlock', (1, 8, 4, 6, 6), sub_sample=True)
    two = block_macs('NLBlock', (2, 8, 4, 6, 6), sub_sample=True)
    assert two.macs == 2 * one.macs
    (row,) = two.blocks
    assert (row.queries, row.keys) == (144, 36)
    assert row.matrix == 2 * 144 * 36 * 4
    assert row.positions == (4, 6, 6)


def test_every_block_has_a_row_and_the_model_is_left_as_it_was():
    names = sorted(BLOCKS)
    model = nn.Sequential(*(BLOCKS[name](16) for name in names)).to('meta')
    model[0].eval()
    training = [module.training for module in model.modules()]
    result = model_complexity(model, torch.zeros(1, 16, 8, 8, device='meta'))
    assert [row.kind for row in result.blocks] == names
    assert [row.name for row in result.blocks] == [str(i) for i in range(len(names))]
    assert sum(row.macs for row in result.blocks) == result.macs
    assert all(row.matrix and row.held for row in result.blocks)
    assert [module.training for module in model.modules()] == training
    assert not any(module._forward_hooks for module in model.modules())


CONFIGS = {
    # Counted layer by layer from the originals.
    'mmpretrain::resnet/resnet50_8xb32_in1k.py': (4.089, 25_557_032),
    'mmaction::recognition/tsm/tsm_imagenet-pretrained-r50-nl-embedded-gaussian_8xb16-'
    '1x1x8-50e_kinetics400-rgb.py': (61.10, 31_682_000),
    'recognition/nl/i3d_imagenet-pretrained-r50-nl5_8xb8-32x2x1-400k_kinetics400-'
    'rgb.py': (37.97 + 2.99, 35_401_936),
    'recognition/rnl/tsm_imagenet-pretrained-r50-rnl_4xb4-dense-1x1x8-100e_'
    'kinetics400-rgb.py': (89.3, 28_392_657),
    'classification/cgnl/resnet50-cgnl1_8xb32-100e_in1k.py': (4.411, 27_197_480),
}


def package_of(name):
    if '::' in name:
        return name.split('::')[0]
    return 'mmaction' if 'kinetics' in name else 'mmpretrain'


@pytest.mark.parametrize('name', CONFIGS)
def test_published_counts(root, script, name, tmp_path):
    pytest.importorskip(package_of(name))
    from mmengine.config import Config

    base = name if '::' in name else str(root / 'configs' / name)
    (tmp_path / 'config.py').write_text(f'_base_ = {base!r}')
    config = Config.fromfile(tmp_path / 'config.py')
    giga_macs, parameters = CONFIGS[name]
    # Not in square tiles, which skip a part of symmetric logits.
    with force('row_tiles'):
        result, _ = script('tools/analysis_tools/get_flops.py').measure(config)
    assert result.macs / 1e9 == pytest.approx(giga_macs, rel=2e-3)
    assert result.parameters == parameters


def test_shapes(root, script):
    pytest.importorskip('mmaction')
    from mmengine.config import Config

    get_flops = script('tools/analysis_tools/get_flops.py')
    folder = root / 'configs' / 'recognition' / 'nl'
    cfg = Config.fromfile(folder / 'i3d_r18-nl_1xb8-16x2x1-8e_mini-kinetics400-rgb.py')
    model = get_flops.build(cfg)

    def shape(*numbers):
        return get_flops.input_shape(cfg, model, numbers)

    assert shape() == (1, 1, 3, 16, 64, 64)
    assert shape(32) == (1, 1, 3, 16, 32, 32)
    assert shape(32, 48) == (1, 1, 3, 16, 32, 48)
    assert shape(8, 32, 48) == (1, 1, 3, 8, 32, 48)
    assert shape(2, 1, 3, 8, 32, 48) == (2, 1, 3, 8, 32, 48)
    with pytest.raises(ValueError, match='give a side, height and width, frames'):
        shape(1, 2, 3, 4)
    cfg.default_scope = 'mmrotate'
    with pytest.raises(ValueError, match="one of .*'mmseg'.* but the config has"):
        get_flops.build(cfg)


#: The tables of mmdetection, at 800 x 1280 and with 1000 proposals. They count norms
#: and activations, too, a third of a percent.
DETECTORS = {
    'retinanet/retinanet_r50_fpn': (239.32, 37.74),
    'faster_rcnn/faster-rcnn_r50_fpn': (207.07, 41.53),
    'mask_rcnn/mask-rcnn_r50_fpn': (260.14, 44.18),
}


@pytest.mark.parametrize('name', DETECTORS)
def test_published_counts_of_detectors(script, name, tmp_path):
    pytest.importorskip('mmdet')
    from mmengine.config import Config

    (tmp_path / 'config.py').write_text(f"_base_ = 'mmdet::{name}_1x_coco.py'")
    config = Config.fromfile(tmp_path / 'config.py')
    get_flops = script('tools/analysis_tools/get_flops.py')
    result, shape = get_flops.measure(config, (800, 1280))
    giga_macs, mega_parameters = DETECTORS[name]
    assert shape == (1, 3, 800, 1280)
    assert result.macs / 1e9 == pytest.approx(giga_macs, rel=4e-3)
    # Theirs leave out the frozen stem and first stage.
    assert result.parameters / 1e6 == pytest.approx(mega_parameters, rel=8e-3)


def test_what_is_printed(root, script, capsys):
    pytest.importorskip('mmseg')
    get_flops = script('tools/analysis_tools/get_flops.py')
    config = 'segmentation/snl/snl_r18-d8_1xb4-400_mini-cityscapes-128x256.py'
    get_flops.main([str(root / 'configs' / config), '--shape', '256', '512'])
    printed = capsys.readouterr().out
    assert '| decode_head.nl_block | SNLBlock | 32x64 | 2,048 x 2,048 |' in printed
    assert '| 16.00 MiB | 0.50 MiB |' in printed
    assert 'Input shape: (1, 3, 256, 512)' in printed
    assert re.search(r'Params: 0\.954M \(954,014\)', printed)
    with pytest.raises(SystemExit, match='get_flops.py: --shape 1 2 3'):
        get_flops.main([str(root / 'configs' / config), '--shape', '1', '2', '3'])


def test_a_matrix_built_once_is_counted_once():
    block = BLOCKS['CayleyNLBlock'](64).to('meta')
    (row,) = model_complexity(block, torch.zeros(1, 64, 2, 2, device='meta')).blocks
    assert row.matrix == row.held == 4 * 4 * 4


@pytest.mark.parametrize('name', ['ARMANLBlock', 'CayleyNLBlock'])
def test_what_small_maps_hold_is_the_matrix(name):
    block = BLOCKS[name](8)
    (row,) = model_complexity(block, torch.zeros(1, 8, 3, 3)).blocks
    assert row.matrix == row.held == 9 * 9 * 4
