_base_ = [
    '../_base_/models/inception_i3d_nl.py',
    '../_base_/datasets/mini_kinetics400.py',
    '../_base_/schedules/mini_8e.py',
    '../_base_/default_runtime.py',
]
# The last map of 16 frames of 64 x 64 pixels has 2 x 2 x 2 positions.
model = dict(
    cls_head=dict(
        num_classes={{_base_.num_classes}}, window=(2, 2, 2), dropout_ratio=0.2
    )
)
