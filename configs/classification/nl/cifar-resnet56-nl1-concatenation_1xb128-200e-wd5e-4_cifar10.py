_base_ = './cifar-resnet56-nl1-embedded-gaussian_1xb128-200e-wd5e-4_cifar10.py'
block = {**_base_.model.backbone.inserts[0].cfg, 'mode': 'concatenation'}
model = dict(backbone=dict(inserts=[dict(after='layer2.7', cfg=block)]))
