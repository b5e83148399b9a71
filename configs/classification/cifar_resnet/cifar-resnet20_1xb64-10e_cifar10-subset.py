_base_ = [
    '../_base_/models/cifar_resnet56.py',
    '../_base_/datasets/cifar10_subset_bs64.py',
    '../_base_/schedules/cifar_subset_10e.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(depth=20))
