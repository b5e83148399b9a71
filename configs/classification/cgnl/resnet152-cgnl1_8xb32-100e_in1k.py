# Before the last block of layer3
_base_ = '../resnet/resnet152_8xb32-100e_in1k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[
            dict(after='layer3.34', cfg=dict(type='CGNLBlock', groups=8)),
        ],
    )
)
