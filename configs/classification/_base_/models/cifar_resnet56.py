# akamaster/pytorch_resnet_cifar10 and tea1528/Non-Local-NN-Pytorch
model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=56),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=64,
        init_cfg=dict(
            type='Kaiming', layer='Linear', mode='fan_in', distribution='normal'
        ),
        topk=(1, 5),
    ),
)
