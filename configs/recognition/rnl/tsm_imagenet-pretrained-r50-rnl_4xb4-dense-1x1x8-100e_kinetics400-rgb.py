_base_ = [
    '../_base_/models/rnl_tsm_r50.py',
    '../_base_/datasets/kinetics400_dense_1x1x8.py',
    '../_base_/schedules/rnl_100e.py',
    '../_base_/default_runtime.py',
]
