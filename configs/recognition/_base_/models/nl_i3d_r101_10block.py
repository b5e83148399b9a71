# NL-I3D-ResNet-101 with ten blocks; over res4 they are spread evenly (our choice).
_base_ = './nl_i3d_r101.py'

model = dict(
    backbone=dict(
        inserts=[
            dict(
                after=[
                    'layer2.0',
                    'layer2.1',
                    'layer2.2',
                    'layer2.3',
                    'layer3.2',
                    'layer3.6',
                    'layer3.10',
                    'layer3.14',
                    'layer3.18',
                    'layer3.22',
                ],
                cfg={{_base_.nl_block}},
            )
        ]
    )
)
