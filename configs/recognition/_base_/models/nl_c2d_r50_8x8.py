# NL-C2D-ResNet-50 for 8x8 frames: NL-I3D without temporal convolutions.
_base_ = './nl_i3d_r50_8x8.py'

model = dict(backbone=dict(backbone=dict(type='C2DResNet3d', inflate=0)))
