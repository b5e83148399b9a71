_base_ = '../resnet/resnet101_1xb100-110e_in1k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[
            dict(after='layer3.21', cfg=dict(type='SNLBlock')),
        ],
    )
)
