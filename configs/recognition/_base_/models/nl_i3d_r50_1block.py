# NL-I3D-ResNet-50 with one block, right before the last residual block of res4.
_base_ = './nl_i3d_r50.py'

model = dict(
    backbone=dict(
        inserts=[
            dict(
                after=[
                    'layer3.4',
                ],
                cfg={{_base_.nl_block}},
            )
        ]
    )
)
