# The SNL repository's CGNL: the Gaussian kernel to second order, one group
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
                    type='CGNLBlock',
                    kernel='rbf',
                    order=2,
                    groups=1,
                    init='pytorch',
                    zeros_init=False,
                ),
            ),
        ],
    )
)
