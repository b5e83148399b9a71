# I3D-ResNet-50 with five spectral non-local blocks.
_base_ = './nl_i3d_r50.py'

model = dict(
    backbone=dict(
        inserts=[
            dict(
                after=['layer2.1', 'layer2.3', 'layer3.1', 'layer3.3', 'layer3.5'],
                cfg=dict(type='SNLBlock', ndim=3),
            )
        ]
    )
)
