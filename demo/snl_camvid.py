# The network of snl_camvid.pth; how it was trained: docs/en/inference.md.
_base_ = '../configs/segmentation/snl/snl_r18-d16_1xb4-400_camvid-180x240.py'
model = dict(auxiliary_head=None)
