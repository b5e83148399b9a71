# SNL-Classification/model/preresnet_snl.py, arch 20; PyTorch's own initialisation
model = dict(
    type='ImageClassifier',
    backbone=dict(type='PreResNet', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearDropoutClsHead',
        # The original keeps 1000 outputs of which CIFAR's labels use the first 10 or
        # 100; docs/en/classification.md tells how to build it so.
        num_classes=10,
        in_channels=64,
        dropout_ratio=0.5,
        init_cfg=None,
        topk=(1, 5),
    ),
)
