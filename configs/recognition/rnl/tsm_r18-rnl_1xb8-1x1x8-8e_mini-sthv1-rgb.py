_base_ = [
    '../_base_/models/rnl_tsm_r50.py',
    '../_base_/datasets/mini_sthv1.py',
    '../_base_/schedules/mini_8e.py',
    '../_base_/default_runtime.py',
]
# As the R50 network, on 48 x 48 pixels: fewer strides, blocks one stage earlier.
num_segments = {{_base_.num_segments}}
block = {{_base_.layer3_block}}
model = dict(
    backbone=dict(
        backbone=dict(
            pretrained=None, pretrained2d=False, depth=18, strides=(2, 2, 2, 2)
        ),
        inserts=[
            dict(
                after='layer1.1',
                num_segments=num_segments,
                cfg=[{{_base_.gate}}, block],
            ),
            dict(after=['layer2.0', 'layer2.1'], num_segments=num_segments, cfg=block),
        ],
    ),
    cls_head=dict(
        num_classes={{_base_.num_classes}}, in_channels=512, dropout_ratio=0.2
    ),
)
