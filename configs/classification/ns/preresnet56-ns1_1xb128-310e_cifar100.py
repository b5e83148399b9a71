_base_ = '../preresnet/preresnet56_1xb128-310e_cifar100.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[
            dict(
                after='layer1.1',
                cfg=dict(
                    type='NSBlock',
                    affinity='sym_norm',
                    init='pytorch',
                    zeros_init=False,
                ),
            ),
        ],
    )
)
