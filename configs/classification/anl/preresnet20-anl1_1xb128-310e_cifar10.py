# momentum 0.19: the original updates this norm twice a step
_base_ = '../preresnet/preresnet20_1xb128-310e_cifar10.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[
            dict(
                after='layer1.1',
                cfg=dict(
                    type='ANLBlock',
                    norm_cfg=dict(type='BN', momentum=0.19),
                    init='pytorch',
                ),
            ),
        ],
    )
)
