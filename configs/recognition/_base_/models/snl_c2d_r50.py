# C2D-ResNet-50 with five spectral non-local blocks.
_base_ = './snl_i3d_r50.py'

model = dict(backbone=dict(backbone=dict(type='C2DResNet3d', inflate=0)))
