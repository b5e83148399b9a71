# train_val.py of CGNL, from torchvision's weights: lr 0.01, /10 after 31, 61 and 81,
# weight decay 1e-4, total batch 256. Its --warmup puts ten epochs before.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256.py'
optim_wrapper = dict(optimizer=dict(lr=0.01))
param_scheduler = dict(milestones=[31, 61, 81])
