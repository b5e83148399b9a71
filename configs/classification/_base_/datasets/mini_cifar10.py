# Synthetic: python tools/dataset_converters/make_mini_data.py --only cifar10
_base_ = './cifar10_subset_bs64.py'
dataset = dict(data_root='data/mini/cifar10')
# No crop: the shapes reach to the border.
train_pipeline = [
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(batch_size=100, dataset=dataset)
test_dataloader = val_dataloader
