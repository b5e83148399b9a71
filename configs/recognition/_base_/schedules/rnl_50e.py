# RNL on Something-Something: 64 clips a step as 4 GPUs x 4 clips x 4 accumulated.
_base_ = './rnl_100e.py'
max_epochs = 50
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-3))
param_scheduler = [
    dict(
        type='InclusiveLinearLR',
        start_factor=0.1,
        begin=0,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        T_max=49,
        begin=1,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
