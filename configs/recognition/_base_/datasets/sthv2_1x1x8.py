_base_ = './sthv1_1x1x8.py'
data_root = 'data/sthv2/'
frames = dict(data_prefix=dict(img=data_root + 'rawframes'), filename_tmpl='{:06}.jpg')
train_dataloader = dict(
    dataset=dict(ann_file=data_root + 'sthv2_train_list_rawframes.txt', **frames)
)
val_dataloader = dict(
    dataset=dict(ann_file=data_root + 'sthv2_val_list_rawframes.txt', **frames)
)
test_dataloader = val_dataloader
