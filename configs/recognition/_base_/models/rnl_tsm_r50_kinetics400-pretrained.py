# The same network as training on Kinetics, or the converter of the published weights,
# left it, to be fine-tuned.
_base_ = './rnl_tsm_r50.py'

model = dict(
    backbone=dict(backbone=dict(pretrained=None, pretrained2d=False)),
    cls_head=dict(dropout_ratio=0.8),
)
