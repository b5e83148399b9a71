_base_ = [
    '../_base_/models/resnet50.py',
    '../_base_/datasets/imagenet_bs100.py',
    '../_base_/schedules/snl_110e.py',
    '../_base_/default_runtime.py',
]
model = dict(head=dict(init_cfg=None))  # PyTorch's own
