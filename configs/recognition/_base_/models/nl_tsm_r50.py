# TSM-NL-ResNet-50 of mit-han-lab/temporal-shift-module: embedded Gaussian, unscaled.
_base_ = './rnl_tsm_r50.py'

block = dict(
    type='NLBlock',
    ndim=3,
    use_scale=False,
    sub_sample=True,
    out_bias=True,
    norm_cfg=dict(type='BN'),
    init='pytorch',
)
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
