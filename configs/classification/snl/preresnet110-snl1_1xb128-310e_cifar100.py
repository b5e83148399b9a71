_base_ = './preresnet56-snl1_1xb128-310e_cifar100.py'
model = dict(backbone=dict(backbone=dict(depth=110)))
