# The SNL repository's NL: its symmetric affinity, A g alone
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
                    type='ChebyshevNLBlock',
                    order=1,
                    zero_order=False,
                    init='pytorch',
                    zeros_init=False,
                ),
            ),
        ],
    )
)
