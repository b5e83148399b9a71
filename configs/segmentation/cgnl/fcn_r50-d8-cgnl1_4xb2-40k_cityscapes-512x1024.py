# One block between the bottlenecks.
_base_ = [
    'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    '../_base_/nl_plugins.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[
            dict(
                after='layer3.4',
                cfg=dict(type='CGNLBlock'),
            )
        ],
    )
)
