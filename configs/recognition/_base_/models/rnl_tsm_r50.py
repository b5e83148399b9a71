# RNL-TSM-ResNet-50 as released: a gate and five region-based blocks.
preprocess_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
num_segments = 8
gate = dict(type='ChannelGate', ndim=3, reduction=2)
layer2_block = dict(type='RNLBlock', ndim=3, kernel_size=(3, 7, 7))
layer3_block = dict(type='RNLBlock', ndim=3, kernel_size=(3, 3, 3))

model = dict(
    type='Recognizer2D',
    backbone=dict(
        type='NonLocalBackbone',
        backbone=dict(
            type='ResNetTSM',
            pretrained='torchvision://resnet50',
            depth=50,
            num_segments=num_segments,
            norm_eval=False,
            shift_div=8,
        ),
        inserts=[
            dict(after='layer2.0', num_segments=num_segments, cfg=[gate, layer2_block]),
            dict(after='layer2.2', num_segments=num_segments, cfg=layer2_block),
            dict(
                after=['layer3.0', 'layer3.2', 'layer3.4'],
                num_segments=num_segments,
                cfg=layer3_block,
            ),
        ],
    ),
    cls_head=dict(
        type='TSMHead',
        num_classes=400,
        in_channels=2048,
        num_segments=num_segments,
        spatial_type='avg',
        consensus=dict(type='AvgConsensus', dim=1),
        dropout_ratio=0.5,
        init_std=0.001,
        is_shift=True,
        average_clips='score',
    ),
    data_preprocessor=dict(type='ActionDataPreprocessor', **preprocess_cfg),
    train_cfg=None,
    test_cfg=None,
)
