_base_ = [
    'mmaction::_base_/models/i3d_r50.py',
    '../_base_/datasets/mini_kinetics400.py',
    '../_base_/schedules/mini_8e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        # Three stages, a quarter of the width, on 64 x 64 pixels.
        backbone=dict(
            type='ResNet3d',
            depth=18,
            pretrained=None,
            pretrained2d=False,
            base_channels=16,
            num_stages=3,
            out_indices=(2,),
            spatial_strides=(1, 2, 2),
            temporal_strides=(1, 1, 1),
            dilations=(1, 1, 1),
            conv1_kernel=(3, 7, 7),
            conv1_stride_t=1,
            pool1_stride_t=1,
            inflate=(1, 1, 0),
            zero_init_residual=False,
        ),
        inserts=[
            dict(after=['layer2.1', 'layer3.0'], cfg=dict(type='NLBlock', ndim=3)),
        ],
    ),
    cls_head=dict(
        num_classes={{_base_.num_classes}}, in_channels=64, dropout_ratio=0.2
    ),
)
