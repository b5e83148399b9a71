# --backbone resnet of the SNL repository on CIFAR: 3x3 stem, no pooling
_base_ = [
    '../_base_/models/resnet50.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/cifar_snl_310e.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(type='ResNet_CIFAR'), head=dict(num_classes=10))
