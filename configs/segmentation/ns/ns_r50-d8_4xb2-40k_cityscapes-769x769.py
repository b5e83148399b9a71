_base_ = [
    'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-769x769.py',
    '../_base_/nl_plugins.py',
]
model = dict(decode_head=dict(type='NonLocalHead', block=dict(type='NSBlock')))
