# akamaster/pytorch_resnet_cifar10: ImageNet's mean and std, weight decay 1e-4
_base_ = [
    '../_base_/models/cifar_resnet56.py',
    '../_base_/datasets/cifar10_bs128.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    '../_base_/default_runtime.py',
]
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
