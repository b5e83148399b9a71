# Non-local networks on Kinetics-400: 400k steps of 64 clips on 8 GPUs.
max_iters = 400000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=10000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0),
)
param_scheduler = dict(
    type='MultiStepLR', by_epoch=False, milestones=[150000, 300000], gamma=0.1
)
# (8 GPUs) x (8 clips)
auto_scale_lr = dict(enable=False, base_batch_size=64)
