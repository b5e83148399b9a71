_base_ = './preresnet56_1xb128-310e_cifar100.py'
model = dict(backbone=dict(depth=110))  # 164 layers, see PreResNet
