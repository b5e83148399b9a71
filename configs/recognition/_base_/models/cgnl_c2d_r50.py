# C2D-ResNet-50 with five compact generalised non-local blocks.
_base_ = './cgnl_i3d_r50.py'

model = dict(backbone=dict(backbone=dict(type='C2DResNet3d', inflate=0)))
