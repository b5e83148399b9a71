_base_ = [
    '../_base_/models/preresnet56.py',
    '../_base_/datasets/cifar100_bs128.py',
    '../_base_/schedules/cifar_snl_310e.py',
    '../_base_/default_runtime.py',
]
