_base_ = [
    '../_base_/models/nl_i3d_r50_32x4.py',
    '../_base_/datasets/kinetics400_32x4x1.py',
    '../_base_/schedules/nl_400k_affine.py',
    '../_base_/iter_runtime.py',
]
load_from = (
    'checkpoints/i3d_imagenet-pretrained-r50_8xb8-8x8x1-400k_kinetics400-rgb.pth'
)
