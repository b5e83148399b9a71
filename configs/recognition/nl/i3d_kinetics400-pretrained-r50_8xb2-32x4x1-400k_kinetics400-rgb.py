# The network without blocks, to compare with.
_base_ = './i3d_kinetics400-pretrained-r50-nl5_8xb2-32x4x1-400k_kinetics400-rgb.py'
model = dict(backbone=dict(_delete_=True, **_base_.model.backbone.backbone))
