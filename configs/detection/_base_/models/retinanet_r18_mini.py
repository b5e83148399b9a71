# A quarter of the width of ResNet-18, from scratch; levels of stride 8 to 64.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(
    backbone=dict(
        depth=18,
        base_channels=16,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64, num_outs=4),
    bbox_head=dict(
        num_classes=8,
        in_channels=64,
        stacked_convs=2,
        feat_channels=64,
        anchor_generator=dict(
            octave_base_scale=2, scales_per_octave=2, strides=[8, 16, 32, 64]
        ),
    ),
)
