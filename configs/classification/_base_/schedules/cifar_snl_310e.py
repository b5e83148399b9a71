# train_val.py of the SNL repository: 300 + 10 epochs, lr 1e-3 -> 0.1 in the first
# ten, /10 after 160 and 260, weight decay 1e-4
_base_ = 'mmpretrain::_base_/schedules/cifar10_bs128.py'
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=10),
    dict(type='MultiStepLR', by_epoch=True, milestones=[160, 260], gamma=0.1),
]
train_cfg = dict(max_epochs=310, val_interval=5)
