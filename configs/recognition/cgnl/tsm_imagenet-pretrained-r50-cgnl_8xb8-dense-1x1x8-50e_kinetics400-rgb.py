_base_ = [
    '../_base_/models/cgnl_tsm_r50.py',
    '../_base_/datasets/kinetics400_dense_1x1x8.py',
    'mmaction::_base_/schedules/sgd_tsm_50e.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(batch_size=8)
# (8 GPUs) x (8 clips)
auto_scale_lr = dict(enable=False, base_batch_size=64)
