# Synthetic: python tools/dataset_converters/make_mini_data.py --only cifar10
_base_ = './cifar10_subset_bs64.py'
dataset = dict(data_root='data/mini/cifar10')
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(batch_size=100, dataset=dataset)
test_dataloader = val_dataloader
