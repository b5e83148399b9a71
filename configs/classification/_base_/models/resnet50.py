# model/resnet.py of CGNL and model/resnet_snl.py of SNL: dropout before the classifier,
# no zero-initialised residual
_base_ = 'mmpretrain::_base_/models/resnet50.py'
model = dict(
    backbone=dict(zero_init_residual=False),
    head=dict(
        type='LinearDropoutClsHead',
        dropout_ratio=0.5,
        init_cfg=dict(
            type='Kaiming', layer='Linear', mode='fan_out', distribution='normal'
        ),
    ),
)
