_base_ = [
    '../_base_/models/inception_i3d_nl_flow.py',
    '../_base_/datasets/hmdb51_64x1x1_flow.py',
    '../_base_/schedules/plateau_200e.py',
    '../_base_/default_runtime.py',
]
# The README subtracts the mean of RGB from flow: v -> 2 (v - 107.328) / 255 - 1.
model = dict(
    cls_head=dict(num_classes=51),
    data_preprocessor=dict(mean=[234.828] * 2, std=[127.5] * 2),
)
load_from = 'checkpoints/inception-i3d_kinetics400-flow.pth'
