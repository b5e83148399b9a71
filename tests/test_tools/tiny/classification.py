_base_ = [
    'mmpretrain::_base_/default_runtime.py',
    '../../../configs/classification/_base_/datasets/mini_cifar10.py',
]
custom_imports = dict(
    imports=['nl_plugins', 'interruption'], allow_failed_imports=False
)
custom_hooks = [dict(type='InterruptionHook')]
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='NonLocalBackbone',
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            stem_channels=8,
            base_channels=8,
            out_indices=(3,),
        ),
        inserts=[dict(after='layer2.0', cfg=dict(type='SNLBlock'))],
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='CrossEntropyLoss'),
        topk=(1, 5),
    ),
)
# Nothing random but the order, which the seed and the epoch decide.
pipeline = [dict(type='PackInputs')]
dataset = dict(data_root='data/cifar10', pipeline=pipeline)
workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=4, dataset=dataset, **workers)
val_dataloader = dict(batch_size=2, dataset=dataset, **workers)
test_dataloader = val_dataloader
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[1], gamma=0.5)
randomness = dict(seed=0)
