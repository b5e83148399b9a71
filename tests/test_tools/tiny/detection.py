_base_ = [
    '../../../configs/detection/_base_/models/retinanet_r18_mini.py',
    'mmdet::_base_/default_runtime.py',
    '../../../configs/detection/_base_/datasets/mini_coco.py',
]
custom_imports = dict(
    imports=['nl_plugins', 'interruption'], allow_failed_imports=False
)
custom_hooks = [dict(type='InterruptionHook')]
model = dict(
    backbone=dict(base_channels=8),
    neck=[
        dict(
            type='FPN',
            in_channels=[8, 16, 32, 64],
            out_channels=16,
            start_level=1,
            add_extra_convs='on_input',
            num_outs=4,
        ),
        dict(
            type='NonLocalNeck',
            in_channels=[16] * 4,
            block=dict(type='SNLBlock'),
            levels=[0, 2],
        ),
    ],
    bbox_head=dict(in_channels=16, stacked_convs=1, feat_channels=16),
    test_cfg=dict(score_thr=0.0, max_per_img=20),
)
# Nothing random but the order, which the seed decides.
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape')),
]
dataset = dict(data_root='data/coco/')
workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=2, dataset=dict(pipeline=pipeline, **dataset), **workers
)
val_dataloader = dict(batch_size=1, dataset=dataset, **workers)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/coco/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9)
)
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[1], gamma=0.5)
randomness = dict(seed=0)
