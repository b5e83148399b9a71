_base_ = '../fcn/fcn_r50-d8_4xb4-80k_coco-stuff164k-512x512.py'
model = dict(decode_head=dict(type='SNLHead'))
