_base_ = [
    'mmseg::nonlocal_net/nonlocal_r101-d8_4xb2-40k_cityscapes-769x769.py',
    '../_base_/accelerate.py',
]
