# Synthetic: python tools/dataset_converters/make_mini_data.py --only sthv1
# Turning a clip round would change its class, so there is no flip.
_base_ = './loaders.py'
num_classes = 8
data_root = 'data/mini/sthv1/'
train_pipeline = [
    dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=8),
    dict(type='RawFrameDecode'),
    dict(type='Resize', scale=(48, 48), keep_ratio=False),
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs'),
]
test_pipeline = [
    dict(
        type='SampleFrames',
        clip_len=1,
        frame_interval=1,
        num_clips=8,
        test_mode=True,
    ),
    *train_pipeline[1:],
]
dataset = dict(
    type='RawframeDataset',
    filename_tmpl='{:05}.jpg',
    data_prefix=dict(img=data_root + 'rawframes'),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(
        ann_file=data_root + 'sthv1_train_list_rawframes.txt',
        pipeline=train_pipeline,
        **dataset,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(
        ann_file=data_root + 'sthv1_val_list_rawframes.txt',
        pipeline=test_pipeline,
        **dataset,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='AccMetric')
test_evaluator = val_evaluator
