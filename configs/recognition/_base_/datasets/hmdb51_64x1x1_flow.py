# Optical flow of HMDB51, split 1, in trees u and v, for 3D networks of 64 frames. An
# epoch is ten passes; validation and test see windows, whose number varies.
_base_ = './loaders.py'
data_root = 'data/hmdb51/'
flow = dict(
    type='CheckedRawframeDataset',
    data_prefix=dict(img=data_root + 'flow/u'),
    filename_tmpl='frame{:06}.jpg',
    modality='Flow',
)
train_pipeline = [
    dict(type='WindowSampleFrames', clip_len=64, mode='random'),
    dict(type='FlowFolderDecode'),
    dict(
        type='MultiScaleCrop',
        input_size=224,
        scales=(1, 0.8409, 0.7071, 0.5946, 0.5),
        max_wh_scale_gap=0,
        num_fixed_crops=5,
    ),
    dict(type='PILResize', scale=(224, 224), keep_ratio=False),
    dict(type='FlowFlip', flip_ratio=0.5),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
val_pipeline = [
    dict(type='WindowSampleFrames', clip_len=64, mode='spaced', num_windows=3),
    dict(type='FlowFolderDecode'),
    dict(type='PILResize', scale=(-1, 224)),
    dict(type='PILCenterCrop', crop_size=224),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
test_pipeline = [
    dict(type='WindowSampleFrames', clip_len=64, mode='consecutive'),
    *val_pipeline[1:],
]
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        type='RepeatDataset',
        times=10,
        dataset=dict(
            ann_file=data_root + 'hmdb51_train_split_1_flow.txt',
            pipeline=train_pipeline,
            **flow,
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        ann_file=data_root + 'hmdb51_val_split_1_flow.txt',
        pipeline=val_pipeline,
        **flow,
    ),
)
test_dataloader = dict(dataset=dict(val_dataloader['dataset'], pipeline=test_pipeline))
