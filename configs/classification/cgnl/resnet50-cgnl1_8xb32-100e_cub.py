# Before the last block of layer3
_base_ = '../resnet/resnet50_8xb32-100e_cub.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[
            dict(after='layer3.4', cfg=dict(type='CGNLBlock', groups=8)),
        ],
    )
)
