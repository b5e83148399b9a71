# The SNL repository normalises CIFAR-100 with CIFAR-10's mean and std.
_base_ = './cifar10_bs128.py'
dataset = dict(type='CIFAR100', data_root='data/cifar100')
data_preprocessor = dict(num_classes=100)
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = val_dataloader
