_base_ = [
    '../_base_/models/fcn_r18-d16.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/nl_plugins.py',
    '../_base_/datasets/mini_cityscapes.py',
    '../_base_/schedules/schedule_400.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    # A quarter of the width of ResNet-18; output stride 8 for the small things.
    backbone=dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    decode_head=dict(type='SNLHead', num_classes=19),
    auxiliary_head=dict(num_classes=19),
)
randomness = dict(seed=0)
