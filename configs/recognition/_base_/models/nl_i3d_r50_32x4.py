# The same network on 32 frames four apart: the stem does not stride over time.
_base_ = './nl_i3d_r50_128x1.py'

model = dict(
    backbone=dict(
        backbone=dict(conv1_stride_t=1, pool1_kernel=(1, 3, 3), pool1_stride_t=1)
    )
)
