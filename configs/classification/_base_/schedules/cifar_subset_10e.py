# A shortened recipe for a few thousand images on a CPU: a warm-up epoch, then a cosine
# to zero; the other numbers are those of cifar_snl_310e.py for half the batch size.
_base_ = 'mmpretrain::_base_/schedules/cifar10_bs128.py'
optim_wrapper = dict(optimizer=dict(lr=0.05))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=1,
        end=10,
        T_max=9,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=10, val_interval=5)
auto_scale_lr = dict(base_batch_size=64)
