# Long clips: 400k steps of 16 clips on 8 GPUs. Norms are fixed affine maps, whose
# scale and shift the original does not train either, in the blocks neither.
_base_ = './nl_400k.py'
optim_wrapper = dict(optimizer=dict(lr=0.0025))
custom_hooks = [dict(type='TrainOnlyHook', norm='freeze', norm_except=())]
# (8 GPUs) x (2 clips)
auto_scale_lr = dict(base_batch_size=16)
