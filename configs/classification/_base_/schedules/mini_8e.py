# A few hundred iterations from scratch, as the synthetic mini set needs them.
_base_ = 'mmpretrain::_base_/schedules/cifar10_bs128.py'
max_epochs = 8
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=4e-3, weight_decay=0.05)
)
param_scheduler = dict(
    _delete_=True,
    type='OneCycleLR',
    eta_max=4e-3,
    total_steps=max_epochs,
    by_epoch=True,
    convert_to_iter_based=True,
)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
auto_scale_lr = dict(base_batch_size=32)
