_base_ = './preresnet20.py'
model = dict(
    backbone=dict(depth=56),  # 83 layers, see PreResNet
    head=dict(num_classes=100, in_channels=256),
)
