_base_ = [
    'mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py',
    '../_base_/nl_plugins.py',
]
model = dict(decode_head=dict(type='SNLHead'))
