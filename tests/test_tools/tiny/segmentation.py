_base_ = [
    'mmseg::_base_/models/fcn_r50-d8.py',
    'mmseg::_base_/default_runtime.py',
    '../../../configs/segmentation/_base_/datasets/mini_cityscapes.py',
]
custom_imports = dict(
    imports=['nl_plugins', 'interruption'], allow_failed_imports=False
)
custom_hooks = [dict(type='InterruptionHook')]
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(128, 256)),
    pretrained=None,
    backbone=dict(
        depth=18,
        stem_channels=8,
        base_channels=8,
        strides=(1, 2, 2, 2),
        dilations=(1, 1, 1, 1),
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(
        type='SNLHead',
        in_channels=64,
        channels=16,
        norm_cfg=norm_cfg,
        dropout_ratio=0,
    ),
    auxiliary_head=None,
)
# Nothing random but the order, which the seed decides.
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(data_root='data/cityscapes/', pipeline=pipeline)
workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=2, dataset=dataset, **workers)
val_dataloader = dict(batch_size=1, dataset=dataset, **workers)
test_dataloader = val_dataloader
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9)
)
param_scheduler = dict(type='MultiStepLR', by_epoch=False, milestones=[2], gamma=0.5)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
randomness = dict(seed=0)
