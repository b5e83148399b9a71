_base_ = './resnet50_1xb100-110e_in1k.py'
model = dict(backbone=dict(depth=152))
