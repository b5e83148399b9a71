# Inception-I3D, optical flow.
_base_ = './inception_i3d.py'

model = dict(
    backbone=dict(in_channels=2),
    data_preprocessor=dict(mean=[127.5, 127.5], std=[127.5, 127.5]),
)
