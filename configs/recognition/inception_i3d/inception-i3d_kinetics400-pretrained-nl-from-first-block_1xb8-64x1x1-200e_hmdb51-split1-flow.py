# What comes before the first non-local block stays as it is.
_base_ = (
    './inception-i3d_kinetics400-pretrained-nl_1xb8-64x1x1-200e_hmdb51-split1-flow.py'
)
custom_hooks = [dict(type='TrainOnlyHook', freeze_before='backbone.mixed_3c.nl_block')]
