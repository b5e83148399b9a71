# One block before the last residual block of layer2, as models/resnet.py of tea1528:
# bias before the norm, no scale, convolutions drawn again with the whole network
_base_ = './cifar-resnet56_1xb128-200e-wd5e-4_cifar10.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[
            dict(
                after='layer2.7',
                cfg=dict(
                    type='NLBlock',
                    mode='embedded_gaussian',
                    use_scale=False,
                    out_bias=True,
                    concat_bias=True,
                    norm_cfg=dict(type='BN'),
                    init='kaiming_fan_in',
                ),
            )
        ],
    )
)
