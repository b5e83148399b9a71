# inception-I3D-NON-LOCAL, RGB: blocks after mixed_3c and mixed_4d, and a head that
# averages windows of two frames.
_base_ = './inception_i3d.py'

nl_block = dict(
    type='NLBlock',
    ndim=3,
    sub_sample=True,
    sub_sample_order='pool_conv',
    out_bias=True,
    norm_cfg=dict(type='BN'),
    init='kaiming_fan_out',
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[dict(after=['mixed_3c', 'mixed_4d'], cfg=nl_block)],
    ),
    cls_head=dict(
        _delete_=True,
        type='InceptionI3DHead',
        num_classes=400,
        dropout_ratio=0.5,
        init_std=0.01,
        average_clips='prob',
    ),
)
