# inception-I3D-NON-LOCAL, optical flow.
_base_ = './inception_i3d_nl.py'

model = dict(
    backbone=dict(backbone=dict(in_channels=2)),
    data_preprocessor=dict(mean=[127.5, 127.5], std=[127.5, 127.5]),
)
