# RNL on Kinetics-400: 64 clips a step as 4 GPUs x 4 clips x 4 accumulated.
max_epochs = 100
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=max_epochs, val_begin=1, val_interval=1
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    constructor='NonLocalTSMOptimWrapperConstructor',
    paramwise_cfg=dict(fc_lr5=True),
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=2e-4),
    accumulative_counts=4,
    clip_grad=dict(max_norm=20, norm_type=2),
)
param_scheduler = [
    dict(
        type='InclusiveLinearLR',
        start_factor=0.1,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        T_max=95,
        begin=5,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
sync_bn = 'torch'
# (4 GPUs) x (4 clips): mmengine leaves accumulation out when it scales the rate.
auto_scale_lr = dict(enable=False, base_batch_size=16)
