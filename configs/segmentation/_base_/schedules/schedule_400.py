# A few minutes on one CPU core, from scratch: AdamW, short warm-up, poly decay.
_base_ = 'mmseg::_base_/schedules/schedule_20k.py'

max_iters = 400
warmup_iters = 40
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.01),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=warmup_iters, by_epoch=False),
    dict(
        type='PolyLR',
        eta_min=0.0,
        power=0.9,
        begin=warmup_iters,
        end=max_iters,
        by_epoch=False,
    ),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=max_iters, max_keep_ckpts=1),
    # The sets are small, so that --show-dir writes every picture.
    visualization=dict(interval=1),
)
