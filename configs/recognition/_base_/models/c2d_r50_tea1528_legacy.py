# The 3D experiment of tea1528/Non-Local-NN-Pytorch in its published layout, which at
# 16 frames does not look at its input; to load its weights only.
_base_ = './nl_c2d_r50_1block.py'

model = dict(
    backbone=dict(
        backbone=dict(legacy=True),
        inserts=[
            dict(
                after='layer3.4',
                cfg=dict(
                    type='NLBlock',
                    ndim=3,
                    use_scale=False,
                    out_bias=True,
                    norm_cfg=dict(type='BN'),
                    init='kaiming_fan_out',
                ),
            )
        ],
    )
)
