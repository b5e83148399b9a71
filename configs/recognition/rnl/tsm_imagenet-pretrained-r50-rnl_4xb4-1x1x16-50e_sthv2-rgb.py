_base_ = [
    '../_base_/models/rnl_tsm_r50_16frames.py',
    '../_base_/datasets/sthv2_1x1x16.py',
    '../_base_/schedules/rnl_50e.py',
    '../_base_/default_runtime.py',
]
model = dict(cls_head=dict(num_classes=174, dropout_ratio=0.8))
