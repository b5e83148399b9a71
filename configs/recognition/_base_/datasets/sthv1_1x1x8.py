# RNL and TSM on Something-Something V1: uniform sampling, no flip since left and right
# matter; test on 2 clips x 3 full crops. Two-frame rows are left out.
_base_ = './loaders.py'
data_root = 'data/sthv1/'
train_pipeline = [
    dict(type='SegmentSampleFrames', num_clips=8),
    dict(type='RawFrameDecode'),
    dict(
        type='MultiScaleCrop',
        input_size=224,
        scales=(1, 0.875, 0.75, 0.66),
        max_wh_scale_gap=1,
        num_fixed_crops=13,
    ),
    dict(type='PILResize', scale=(224, 224), keep_ratio=False),
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs'),
]
val_pipeline = [
    dict(type='SegmentSampleFrames', num_clips=8, test_mode=True),
    dict(type='RawFrameDecode'),
    dict(type='PILResize', scale=(-1, 256)),
    dict(type='PILCenterCrop', crop_size=224),
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs'),
]
test_pipeline = [
    dict(
        type='SampleFrames',
        clip_len=1,
        frame_interval=1,
        num_clips=8,
        twice_sample=True,
        test_mode=True,
    ),
    dict(type='RawFrameDecode'),
    dict(type='PILResize', scale=(-1, 256)),
    dict(type='FullResThreeCrop', crop_size=256),
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs'),
]
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        type='CheckedRawframeDataset',
        ann_file=data_root + 'sthv1_train_list_rawframes.txt',
        data_prefix=dict(img=data_root + 'rawframes'),
        filename_tmpl='{:05}.jpg',
        min_frames=3,
        on_error='skip',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    dataset=dict(
        train_dataloader['dataset'],
        ann_file=data_root + 'sthv1_val_list_rawframes.txt',
        pipeline=val_pipeline,
    ),
)
test_dataloader = dict(dataset=dict(val_dataloader['dataset'], pipeline=test_pipeline))
val_evaluator = dict(type='AccMetric')
test_evaluator = val_evaluator
