# The same network on 16 frames.
_base_ = './rnl_tsm_r50.py'

num_segments = 16
model = dict(
    backbone=dict(
        backbone=dict(num_segments=num_segments),
        inserts=[
            dict(
                after='layer2.0',
                num_segments=num_segments,
                cfg=[{{_base_.gate}}, {{_base_.layer2_block}}],
            ),
            dict(
                after='layer2.2', num_segments=num_segments, cfg={{_base_.layer2_block}}
            ),
            dict(
                after=['layer3.0', 'layer3.2', 'layer3.4'],
                num_segments=num_segments,
                cfg={{_base_.layer3_block}},
            ),
        ],
    ),
    cls_head=dict(num_segments=num_segments),
)
