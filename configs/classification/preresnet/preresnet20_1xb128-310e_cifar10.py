_base_ = [
    '../_base_/models/preresnet20.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/cifar_snl_310e.py',
    '../_base_/default_runtime.py',
]
