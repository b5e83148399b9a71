# Only the non-local blocks and the classifier train.
_base_ = (
    './inception-i3d_kinetics400-pretrained-nl_1xb8-64x1x1-200e_hmdb51-split1-flow.py'
)
custom_hooks = [dict(type='TrainOnlyHook', train=['*.nl_block', 'cls_head'])]
