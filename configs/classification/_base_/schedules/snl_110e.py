# train_val.py of the SNL repository on ImageNet, from scratch: 100 + 10 epochs, lr
# 1e-5 -> 0.01 in the first ten, /10 after 41, 71 and 91, weight decay 1e-4, batch 100
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256.py'
optim_wrapper = dict(optimizer=dict(lr=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=True, begin=0, end=10),
    dict(type='MultiStepLR', by_epoch=True, milestones=[41, 71, 91], gamma=0.1),
]
train_cfg = dict(max_epochs=110, val_interval=5)
auto_scale_lr = dict(base_batch_size=100)
