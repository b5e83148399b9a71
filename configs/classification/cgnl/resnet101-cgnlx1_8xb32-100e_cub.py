# Before the last block of layer3
_base_ = '../resnet/resnet101_8xb32-100e_cub.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[
            dict(
                after='layer3.21',
                cfg=dict(type='CGNLBlock', kernel='rbf', order=3, groups=8),
            ),
        ],
    )
)
