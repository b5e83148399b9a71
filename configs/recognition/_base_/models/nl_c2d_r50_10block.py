# NL-C2D-ResNet-50 with ten blocks: NL-I3D without temporal convolutions.
_base_ = './nl_i3d_r50_10block.py'

model = dict(backbone=dict(backbone=dict(type='C2DResNet3d', inflate=0)))
