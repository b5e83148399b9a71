# I3D-ResNet-50 with five region-based non-local blocks.
_base_ = './nl_i3d_r50.py'

model = dict(
    backbone=dict(
        inserts=[
            dict(
                after=['layer2.1', 'layer2.3', 'layer3.1', 'layer3.3', 'layer3.5'],
                cfg=dict(type='RNLBlock', ndim=3, kernel_size=3),
            )
        ]
    )
)
