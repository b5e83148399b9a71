# A minute on two CPU cores, from scratch: AdamW, short warm-up, cosine decay.
_base_ = [
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.002, weight_decay=0.01),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=12,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=12, val_interval=12)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=12, max_keep_ckpts=1),
    # The set is small, so that --show-dir writes every picture.
    visualization=dict(interval=1),
)
randomness = dict(seed=0)
