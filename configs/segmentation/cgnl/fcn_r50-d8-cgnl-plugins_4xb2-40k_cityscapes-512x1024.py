# A block inside every bottleneck of stage 3, by mmseg's own plugins argument.
_base_ = [
    'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    '../_base_/nl_plugins.py',
]
model = dict(
    backbone=dict(
        plugins=[
            dict(
                cfg=dict(type='CGNLBlock'),
                stages=(False, False, True, False),
                position='after_conv3',
            )
        ]
    )
)
