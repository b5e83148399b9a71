_base_ = [
    '../_base_/models/rnl_tsm_r50_kinetics400-pretrained.py',
    '../_base_/datasets/hmdb51_1x1x8.py',
    '../_base_/schedules/tsm_finetune_25e.py',
    '../_base_/default_runtime.py',
]
model = dict(cls_head=dict(num_classes=51))
load_from = (
    'checkpoints/'
    'tsm_imagenet-pretrained-r50-rnl_4xb4-dense-1x1x8-100e_kinetics400-rgb.pth'
)
