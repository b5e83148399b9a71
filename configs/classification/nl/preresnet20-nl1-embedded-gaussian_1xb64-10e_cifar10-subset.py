_base_ = '../preresnet/preresnet20_1xb64-10e_cifar10-subset.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[
            dict(after='layer1.1', cfg=dict(type='NLBlock', mode='embedded_gaussian'))
        ],
    )
)
