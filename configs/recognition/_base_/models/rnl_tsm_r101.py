# RNL-TSM-ResNet-101. The placement of the published network is not public; this one
# is ours: layer2 as in ResNet-50, three blocks spread over the 23 of layer3. The
# converter reads the placement of a checkpoint from its keys.
_base_ = './rnl_tsm_r50.py'

num_segments = {{_base_.num_segments}}
model = dict(
    backbone=dict(
        backbone=dict(pretrained='torchvision://resnet101', depth=101),
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
                after=['layer3.6', 'layer3.14', 'layer3.22'],
                num_segments=num_segments,
                cfg={{_base_.layer3_block}},
            ),
        ],
    )
)
