# NL-C2D-ResNet-50 with a block after every residual block of res3 and res4.
_base_ = './nl_c2d_r50.py'

model = dict(
    backbone=dict(
        inserts=[
            dict(
                after=[
                    'layer2.0',
                    'layer2.1',
                    'layer2.2',
                    'layer2.3',
                    'layer3.0',
                    'layer3.1',
                    'layer3.2',
                    'layer3.3',
                    'layer3.4',
                    'layer3.5',
                ],
                cfg={{_base_.nl_block}},
            )
        ]
    )
)
