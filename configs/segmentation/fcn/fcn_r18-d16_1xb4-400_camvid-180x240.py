_base_ = [
    '../_base_/models/fcn_r18-d16.py',
    '../_base_/datasets/camvid_180x240.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/schedule_400.py',
    '../_base_/nl_plugins.py',
]
crop_size = (180, 240)
model = dict(data_preprocessor=dict(size=crop_size))
