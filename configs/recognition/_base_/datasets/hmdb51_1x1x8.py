# Fine-tuning of frame-stacked networks on HMDB51, split 1: uniform sampling of frames
# extracted as img_00001.jpg; test on 2 clips x 3 full crops.
_base_ = './sthv1_1x1x8.py'
data_root = 'data/hmdb51/'
train_pipeline = _base_.train_pipeline
train_pipeline.insert(4, dict(type='Flip', flip_ratio=0.5))
frames = dict(
    data_prefix=dict(img=data_root + 'rawframes'), filename_tmpl='img_{:05}.jpg'
)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        ann_file=data_root + 'hmdb51_train_split_1_rawframes.txt',
        pipeline=train_pipeline,
        **frames,
    ),
)
val_dataloader = dict(
    dataset=dict(ann_file=data_root + 'hmdb51_val_split_1_rawframes.txt', **frames)
)
test_dataloader = val_dataloader
val_dataloader = dict(val_dataloader, batch_size=8)
