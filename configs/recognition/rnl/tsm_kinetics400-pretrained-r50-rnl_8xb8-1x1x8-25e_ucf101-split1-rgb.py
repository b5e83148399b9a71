_base_ = [
    '../_base_/models/rnl_tsm_r50.py',
    '../_base_/datasets/ucf101_1x1x8.py',
    '../_base_/schedules/tsm_finetune_25e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(backbone=dict(pretrained=None, pretrained2d=False)),
    cls_head=dict(num_classes=101, dropout_ratio=0.8),
)
custom_hooks = [
    dict(
        type='TrainOnlyHook',
        norm='freeze',
        norm_except=['backbone.conv1.bn', '*.rnl_block', '*.channel_gate'],
    )
]
# What training on Kinetics, or the converter of the published weights, left behind.
load_from = (
    'checkpoints/'
    'tsm_imagenet-pretrained-r50-rnl_4xb4-dense-1x1x8-100e_kinetics400-rgb.pth'
)
