# A block inside every bottleneck of stage 3, by mmseg's own plugins argument.
_base_ = [
    'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    '../_base_/nl_plugins.py',
]
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(
        plugins=[
            dict(
                cfg=dict(type='SNLBlock', norm_cfg=norm_cfg),
                stages=(False, False, True, False),
                position='after_conv3',
            )
        ]
    )
)
