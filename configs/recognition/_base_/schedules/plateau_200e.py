# 3D-ResNets' training, as inception-I3D-NON-LOCAL was launched: the rate falls when the
# validation loss has not for more than two epochs. Batches of 8 on one GPU.
max_epochs = 200
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=max_epochs, val_begin=1, val_interval=1
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, dampening=0.9, weight_decay=1e-3)
)
param_scheduler = dict(
    type='ReduceOnPlateauLR', monitor='val/loss', rule='less', factor=0.1, patience=2
)
val_evaluator = [
    dict(type='AccMetric'),
    dict(type='CrossEntropyMetric', average_clips='prob'),
]
test_evaluator = dict(type='AccMetric')
