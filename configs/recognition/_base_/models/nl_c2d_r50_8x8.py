# NL-C2D-ResNet-50 for 8x8 and 32x4 frames: the stem does not stride over time.
_base_ = './nl_c2d_r50.py'

model = dict(
    backbone=dict(
        backbone=dict(conv1_stride_t=1, pool1_kernel=(1, 3, 3), pool1_stride_t=1)
    )
)
