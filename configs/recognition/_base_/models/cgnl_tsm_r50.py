# TSM-ResNet-50 with five compact generalised non-local blocks.
_base_ = './rnl_tsm_r50.py'

block = dict(type='CGNLBlock', ndim=3)
model = dict(
    backbone=dict(
        inserts=[
            dict(
                after=['layer2.0', 'layer2.2', 'layer3.0', 'layer3.2', 'layer3.4'],
                num_segments={{_base_.num_segments}},
                cfg=block,
            )
        ]
    )
)
