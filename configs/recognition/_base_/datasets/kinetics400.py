# The videos of Kinetics-400; how frames are taken from them is the networks' own.
_base_ = './loaders.py'
data_root = 'data/kinetics400/'
train_dataloader = dict(
    dataset=dict(
        type='CheckedVideoDataset',
        ann_file=data_root + 'kinetics400_train_list_videos.txt',
        data_prefix=dict(video=data_root + 'videos_train'),
    )
)
val_dataloader = dict(
    dataset=dict(
        type='CheckedVideoDataset',
        ann_file=data_root + 'kinetics400_val_list_videos.txt',
        data_prefix=dict(video=data_root + 'videos_val'),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(type='AccMetric')
test_evaluator = val_evaluator
