_base_ = [
    '../_base_/models/retinanet_r18_mini.py',
    '../_base_/nl_plugins.py',
    '../_base_/datasets/mini_coco.py',
    '../_base_/schedules/mini_12e.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[dict(after='layer3.0', cfg=dict(type='SNLBlock'))],
    )
)
