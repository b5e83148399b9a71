_base_ = './cifar-resnet56_1xb128-200e_cifar10.py'
model = dict(backbone=dict(depth=110))
# The original means one epoch at 0.01; with a scheduler that multiplies the current
# rate it stays at 0.01 until epoch 100.
param_scheduler = [
    dict(type='ConstantLR', factor=0.1, by_epoch=True, begin=0, end=2),
    dict(type='MultiStepLR', by_epoch=True, milestones=[100, 150], gamma=0.1),
]
