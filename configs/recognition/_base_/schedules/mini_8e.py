# A few epochs from scratch, as the synthetic mini sets need them.
max_epochs = 8
train_cfg = dict(
    type='EpochBasedTrainLoop',
    max_epochs=max_epochs,
    val_begin=max_epochs,
    val_interval=max_epochs,
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.02),
    clip_grad=dict(max_norm=20, norm_type=2),
)
param_scheduler = dict(
    type='OneCycleLR',
    eta_max=2e-3,
    total_steps=max_epochs,
    by_epoch=True,
    convert_to_iter_based=True,
)
randomness = dict(seed=0)
