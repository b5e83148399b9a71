_base_ = [
    'mmseg::fcn/fcn_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/nl_plugins.py',
]
model = dict(decode_head=dict(type='CGNLHead'))
