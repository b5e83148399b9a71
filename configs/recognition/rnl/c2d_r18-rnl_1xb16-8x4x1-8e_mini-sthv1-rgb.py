_base_ = '../nl/c2d_r18_1xb16-8x4x1-8e_mini-sthv1-rgb.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[
            dict(
                after=['layer2.1', 'layer3.0'],
                cfg=dict(type='RNLBlock', ndim=3, kernel_size=(7, 3, 3)),
            )
        ],
    )
)
