# NL-I3D-ResNet-50, 32x2, in the stem of video-nonlocal-net: five blocks that take
# the maximum over 2 x 2 positions before the projections of keys and values.
nl_block = dict(
    type='NLBlock',
    ndim=3,
    sub_sample=True,
    sub_sample_order='pool_conv',
    out_bias=True,
    norm_cfg=dict(type='BN'),
    init='normal',
)

model = dict(
    type='Recognizer3D',
    backbone=dict(
        type='NonLocalBackbone',
        backbone=dict(
            type='NLResNet3d',
            pretrained2d=True,
            pretrained='torchvision://resnet50',
            depth=50,
            norm_eval=False,
            inflate=((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0)),
            zero_init_residual=False,
        ),
        inserts=[
            dict(
                after=['layer2.1', 'layer2.3', 'layer3.1', 'layer3.3', 'layer3.5'],
                cfg=nl_block,
            )
        ],
    ),
    cls_head=dict(
        type='I3DHead',
        num_classes=400,
        in_channels=2048,
        spatial_type='avg',
        dropout_ratio=0.5,
        init_std=0.01,
        average_clips='prob',
    ),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[114.75, 114.75, 114.75],
        std=[57.375, 57.375, 57.375],
        format_shape='NCTHW',
    ),
)
