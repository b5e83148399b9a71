_base_ = [
    '../_base_/models/snl_c2d_r50.py',
    '../_base_/datasets/kinetics400_32x2x1.py',
    '../_base_/schedules/nl_400k.py',
    '../_base_/iter_runtime.py',
]
