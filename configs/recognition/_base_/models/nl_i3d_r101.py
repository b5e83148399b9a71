# NL-I3D-ResNet-101 with five blocks.
_base_ = './nl_i3d_r50.py'

model = dict(
    backbone=dict(
        backbone=dict(
            pretrained='torchvision://resnet101',
            depth=101,
            inflate=((1, 1, 1), (1, 0, 1, 0), (1, 0) * 11 + (1,), (0, 1, 0)),
        ),
        inserts=[
            dict(
                after=[
                    'layer2.1',
                    'layer2.3',
                    'layer3.6',
                    'layer3.13',
                    'layer3.20',
                ],
                cfg={{_base_.nl_block}},
            )
        ],
    )
)
