# One block before the last residual block of res4.
_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../_base_/nl_plugins.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[dict(after='layer3.4', cfg=dict(type='NLBlock'))],
    )
)
