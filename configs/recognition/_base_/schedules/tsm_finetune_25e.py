# TSM's fine-tuning on UCF101 and HMDB51: 64 clips a step on 8 GPUs, frozen norms but
# the first and those of the non-local blocks.
max_epochs = 25
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=max_epochs, val_begin=1, val_interval=1
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    constructor='NonLocalTSMOptimWrapperConstructor',
    paramwise_cfg=dict(fc_lr5=True),
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=20, norm_type=2),
)
param_scheduler = dict(
    type='MultiStepLR', begin=0, end=max_epochs, milestones=[10, 20], gamma=0.1
)
# (8 GPUs) x (8 clips)
auto_scale_lr = dict(enable=False, base_batch_size=64)
custom_hooks = [
    dict(
        type='TrainOnlyHook',
        norm='freeze',
        norm_except=['backbone.conv1.bn', '*.rnl_block', '*.channel_gate'],
    )
]
