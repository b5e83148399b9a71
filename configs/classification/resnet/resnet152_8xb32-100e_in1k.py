_base_ = './resnet50_8xb32-100e_in1k.py'
model = dict(
    backbone=dict(
        depth=152,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet152'),
    )
)
