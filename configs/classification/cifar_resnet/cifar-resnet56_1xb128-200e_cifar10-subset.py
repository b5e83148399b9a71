# On the images of tools/dataset_converters/cifar_npz.py; the schedule is that of the
# whole set
_base_ = './cifar-resnet56_1xb128-200e_cifar10.py'
dataset = dict(type='CIFAR10Subset', data_root='data/cifar10_subset')
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = val_dataloader
