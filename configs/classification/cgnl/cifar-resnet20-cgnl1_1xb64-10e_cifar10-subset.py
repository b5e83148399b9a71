_base_ = '../cifar_resnet/cifar-resnet20_1xb64-10e_cifar10-subset.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[dict(after='layer2.1', cfg=dict(type='CGNLBlock'))],
    )
)
