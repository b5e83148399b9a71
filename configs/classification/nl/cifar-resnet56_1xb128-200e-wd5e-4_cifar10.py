# tea1528/Non-Local-NN-Pytorch, main.py: CIFAR-10's mean and std, weight decay 5e-4
_base_ = [
    '../_base_/models/cifar_resnet56.py',
    '../_base_/datasets/cifar10_bs128.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    '../_base_/default_runtime.py',
]
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
