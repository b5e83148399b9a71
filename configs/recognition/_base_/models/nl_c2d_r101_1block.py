# NL-C2D-ResNet-101 with one block, right before the last residual block of res4.
_base_ = './nl_c2d_r101.py'

model = dict(
    backbone=dict(
        inserts=[
            dict(
                after=[
                    'layer3.21',
                ],
                cfg={{_base_.nl_block}},
            )
        ]
    )
)
