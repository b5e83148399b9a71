_base_ = [
    'mmaction::_base_/models/tsm_r50.py',
    'mmaction::_base_/default_runtime.py',
    '../../../configs/recognition/_base_/datasets/mini_sthv1.py',
]
custom_imports = dict(
    imports=['nl_plugins', 'interruption'], allow_failed_imports=False
)
custom_hooks = [dict(type='InterruptionHook')]
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone=dict(
            type='ResNetTSM',
            depth=18,
            pretrained2d=False,
            strides=(2, 2, 2, 1),
            shift_div=8,
            num_segments=8,
        ),
        inserts=[
            dict(
                after='layer2.0',
                num_segments=8,
                cfg=dict(type='RNLBlock', ndim=3, kernel_size=(3, 3, 3)),
            )
        ],
    ),
    cls_head=dict(num_classes=8, in_channels=512, dropout_ratio=0),
)
# Nothing random but the order, which the seed and the epoch decide.
pipeline = [
    dict(
        type='SampleFrames', clip_len=1, frame_interval=1, num_clips=8, test_mode=True
    ),
    dict(type='RawFrameDecode'),
    dict(type='Resize', scale=(32, 32), keep_ratio=False),
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs'),
]
data_prefix = dict(img='data/sthv1/rawframes')
workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        ann_file='data/sthv1/sthv1_train_list_rawframes.txt',
        data_prefix=data_prefix,
        pipeline=pipeline,
    ),
    **workers,
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        ann_file='data/sthv1/sthv1_val_list_rawframes.txt',
        data_prefix=data_prefix,
        pipeline=pipeline,
    ),
    **workers,
)
test_dataloader = val_dataloader
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[1], gamma=0.5)
randomness = dict(seed=0)
