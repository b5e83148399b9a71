# NL-C2D-ResNet-101 in mmaction2's stem: NL-I3D without temporal convolutions.
_base_ = './nl_i3d_r101_mmaction-stem.py'

model = dict(backbone=dict(backbone=dict(type='C2DResNet3d', inflate=0)))
