_base_ = [
    '../_base_/models/rnl_tsm_r50_16frames.py',
    '../_base_/datasets/kinetics400_dense_1x1x16.py',
    '../_base_/schedules/rnl_100e.py',
    '../_base_/default_runtime.py',
]
