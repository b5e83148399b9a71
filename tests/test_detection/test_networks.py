# Copyright (c) The nl_plugins authors. All rights reserved.
"""Detection configs, the neck, and published checkpoints in networks with a block."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')

from mmdet.registry import MODELS  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402

from nl_plugins.blocks import BLOCKS  # noqa: E402

FOLDER = Path(__file__).resolve().parents[2] / 'configs' / 'detection'
CONFIGS = sorted(
    path.relative_to(FOLDER).as_posix()
    for path in FOLDER.glob('[!_]*/*.py')
    if 'mini-' not in path.name
)
PUBLISHED = dict(
    retinanet='retinanet/retinanet',
    **{'faster-rcnn': 'faster_rcnn/faster-rcnn', 'mask-rcnn': 'mask_rcnn/mask-rcnn'},
)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def build(cfg):
    with torch.device('meta'):
        return MODELS.build(cfg)


def stock(name, tmp_path):
    """A config of mmdetection."""
    path = tmp_path / 'stock.py'
    path.write_text(f"_base_ = 'mmdet::{name}_1x_coco.py'")
    return Config.fromfile(path)


def test_the_promised_configs_exist():
    promised = {
        f'{block}/{detector}_r50-{block}1_fpn_8xb2-1x_coco.py'
        for block in ('nl', 'snl', 'cgnl')
        for detector in ('retinanet', 'faster-rcnn')
    }
    promised |= {
        f'nl/mask-rcnn_{net}-nl1_fpn_8xb2-1x_coco.py' for net in ('r50', 'r101')
    }
    assert promised == set(CONFIGS)


@pytest.mark.parametrize('config', CONFIGS)
def test_a_config_is_the_stock_detector_with_one_block(config, tmp_path):
    """One block before the last residual block of res4; all published keys stay."""
    cfg = Config.fromfile(FOLDER / config)
    detector, net, block = re.match(r'\w+/([\w-]+)_(r\d+)-([a-z]+)1_', config).groups()
    plain = stock(f'{PUBLISHED[detector]}_{net}_fpn', tmp_path)
    assert {key for key in cfg if cfg[key] != plain.get(key)} == {
        'model',
        'custom_imports',
    }
    ours, theirs = build(cfg.model), build(plain.model)
    inserted = {
        name: m for name, m in ours.named_modules() if type(m) in BLOCKS.values()
    }
    ((name, module),) = inserted.items()
    last = len(theirs.backbone.layer3) - 1
    assert name == f'backbone.layer3.{last - 1}.{block}_block'
    assert type(module).__name__ == f'{block.upper()}Block'
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    extra = {key for key in shapes if key.startswith(f'{name}.')}
    assert extra and set(shapes) - extra == set(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert shapes[key] == value.shape, key


def test_neck_changes_the_chosen_levels_alone():
    torch.manual_seed(0)
    block = dict(type='SNLBlock', zeros_init=False)
    neck = MODELS.build(
        dict(type='NonLocalNeck', in_channels=[8] * 3, block=block, levels=[0, -1])
    )
    neck.init_weights()
    assert neck.levels == [0, 2]
    maps = tuple(torch.randn(2, 8, size, size + 1) for size in (6, 4, 2))
    out = neck(maps)
    assert isinstance(out, tuple) and [m.shape for m in out] == [m.shape for m in maps]
    assert out[1] is maps[1]
    for level in (0, 2):
        assert not torch.equal(out[level], maps[level])
    with pytest.raises(ValueError, match='takes 3 feature level'):
        neck(maps[:2])


MINI = '_base_/models/retinanet_r18_mini.py'


@pytest.mark.parametrize('place', ['backbone', 'neck', 'neck list'])
def test_a_fresh_block_changes_no_prediction(place):
    """Weights of the plain detector load, and what it finds stays."""
    torch.manual_seed(0)
    cfg = Config.fromfile(FOLDER / MINI).model
    cfg.test_cfg.update(score_thr=0.0, max_per_img=10)
    plain = MODELS.build(cfg)
    block = dict(type='NLBlock')
    if place == 'backbone':
        inserts = [dict(after='layer3.0', cfg=block)]
        cfg.backbone = dict(
            type='NonLocalBackbone', backbone=cfg.backbone, inserts=inserts
        )
    elif place == 'neck':
        inserts = [dict(after='fpn_convs.1', cfg=dict(in_channels=64, **block))]
        cfg.neck = dict(type='NonLocalBackbone', backbone=cfg.neck, inserts=inserts)
    else:
        neck = dict(
            type='NonLocalNeck', in_channels=[64] * 4, block=block, levels=[0, 2]
        )
        cfg.neck = [cfg.neck, neck]
    model = MODELS.build(cfg)
    weights = plain.state_dict()
    if place == 'neck list':
        weights = {key.replace('neck.', 'neck.0.'): v for key, v in weights.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and missing and all('nl_block' in key for key in missing)
    from mmdet.structures import DetDataSample

    meta = dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0))
    data = dict(
        inputs=[torch.randint(256, (3, 64, 96), dtype=torch.uint8)],
        data_samples=[DetDataSample(metainfo=meta)],
    )
    found, expected = (
        net.eval().test_step(data)[0].pred_instances for net in (model, plain)
    )
    assert len(expected) == 10
    for key in ('bboxes', 'scores', 'labels'):
        torch.testing.assert_close(found[key], expected[key])


@pytest.mark.parametrize('detector', ['faster-rcnn', 'mask-rcnn'])
def test_two_stages_take_a_step_with_amp(detector, tmp_path):
    """Proposals, nms and RoIAlign, forward and backward, with bf16 features."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.optim import AmpOptimWrapper
    from mmengine.structures import InstanceData

    cfg = stock(f'{PUBLISHED[detector]}_r50_fpn', tmp_path).model
    cfg.backbone.update(base_channels=4, frozen_stages=-1, init_cfg=None)
    cfg.backbone = dict(
        type='NonLocalBackbone',
        backbone=cfg.backbone,
        inserts=[dict(after='layer3.4', cfg=dict(type='NLBlock'))],
    )
    cfg.neck.update(in_channels=[16, 32, 64, 128], out_channels=16)
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    heads = cfg.roi_head
    heads.bbox_roi_extractor.out_channels = 16
    heads.bbox_head.update(in_channels=16, fc_out_channels=16)
    if detector == 'mask-rcnn':
        heads.mask_roi_extractor.out_channels = 16
        heads.mask_head.update(in_channels=16, conv_out_channels=16)
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    sample = DetDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96)))
    sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
    truth = InstanceData(
        bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([1])
    )
    truth.masks = BitmapMasks([np.ones((64, 96), np.uint8)], 64, 96)
    sample.gt_instances = truth
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    picture = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
    wrapper = AmpOptimWrapper(
        dtype='bfloat16', optimizer=torch.optim.SGD(model.parameters(), lr=0.01)
    )
    before = [p.detach().clone() for p in model.neck.parameters()]
    losses = model.train_step(dict(inputs=[picture], data_samples=[sample]), wrapper)
    assert all(torch.isfinite(loss).all() for loss in losses.values())
    wanted = {'loss_cls', 'loss_bbox', 'loss_rpn_cls'}
    assert wanted | ({'loss_mask'} if 'mask' in detector else set()) <= set(losses)
    after = list(model.neck.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(after, before))
    with torch.no_grad():
        (result,) = model.eval().test_step(
            dict(inputs=[picture], data_samples=[sample])
        )
    assert len(result.pred_instances) <= 100


def test_tokens_of_swin():
    """A block between two blocks of Swin, whose tokens it sees as a map."""
    torch.manual_seed(0)
    swin = dict(
        type='SwinTransformer',
        embed_dims=16,
        depths=(1, 1, 2, 1),
        num_heads=(1, 2, 4, 8),
        drop_path_rate=0.0,
    )
    plain = MODELS.build(swin)
    block = dict(type='NLBlock', zeros_init=False)
    inserts = [dict(after='stages.2.blocks.0', cfg=block)]
    model = MODELS.build(dict(type='NonLocalBackbone', backbone=swin, inserts=inserts))
    plain.eval(), model.eval()  # Swin's own returns nothing
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all('nl_block' in key for key in missing)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = model(x), plain(x)
    assert [m.shape for m in ours] == [m.shape for m in theirs]
    same = [torch.equal(a, b) for a, b in zip(ours, theirs)]
    assert same == [True, True, False, False]


def test_libra_rcnn_is_accelerated():
    """``BFP(refine_type='non_local')``: same keys, same numbers, another forward."""
    from mmcv.cnn import NonLocal2d

    from nl_plugins import accelerate

    torch.manual_seed(0)
    neck = MODELS.build(
        dict(
            type='BFP', in_channels=16, num_levels=4, refine_level=1,
            refine_type='non_local',
        )
    )  # fmt: skip
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    maps = [torch.randn(1, 16, 64 >> i, 48 >> i) for i in range(4)]
    accelerate.undo()
    original = NonLocal2d.forward
    expected, keys = neck(maps), list(neck.state_dict())
    accelerate.apply()
    try:
        assert NonLocal2d.forward is not original
        found = neck(maps)
    finally:
        accelerate.undo()
    assert list(neck.state_dict()) == keys
    for level, wanted in zip(found, expected):
        torch.testing.assert_close(level, wanted, rtol=1e-5, atol=1e-6)
