_base_ = '../fcn/fcn_r18-d16_1xb4-400_camvid-180x240.py'
model = dict(decode_head=dict(type='CGNLHead'))
