# UCF101, split 1, as HMDB51.
_base_ = './hmdb51_1x1x8.py'
data_root = 'data/ucf101/'
frames = dict(data_prefix=dict(img=data_root + 'rawframes'))
train_dataloader = dict(
    dataset=dict(ann_file=data_root + 'ucf101_train_split_1_rawframes.txt', **frames)
)
val_dataloader = dict(
    dataset=dict(ann_file=data_root + 'ucf101_val_split_1_rawframes.txt', **frames)
)
test_dataloader = val_dataloader
