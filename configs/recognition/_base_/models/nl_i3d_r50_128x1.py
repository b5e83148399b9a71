# NL-I3D-ResNet-50 on 128 frames, from an I3D network trained on 32: blocks without a
# norm start from a zero convolution, those of res3 see groups of four frames.
_base_ = './nl_i3d_r50.py'

far = dict(_base_.nl_block, norm_cfg=None)
near = dict(far, type='GroupedNLBlock', group_size=4)
model = dict(
    backbone=dict(
        backbone=dict(pretrained=None, pretrained2d=False),
        inserts=[
            dict(after=['layer2.1', 'layer2.3'], cfg=near),
            dict(after=['layer3.1', 'layer3.3', 'layer3.5'], cfg=far),
        ],
    )
)
