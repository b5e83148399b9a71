_base_ = './cifar-resnet56_1xb128-200e_cifar10-subset.py'
model = dict(backbone=dict(depth=20))
