# The same network in mmaction2's stem, which pads pool1 and keeps single frames in it.
_base_ = './nl_i3d_r50.py'

model = dict(
    backbone=dict(backbone=dict(pool1_kernel=(1, 3, 3), pool1_padding=(0, 1, 1)))
)
