_base_ = [
    'mmseg::nonlocal_net/nonlocal_r50-d8_4xb4-80k_ade20k-512x512.py',
    '../_base_/accelerate.py',
]
