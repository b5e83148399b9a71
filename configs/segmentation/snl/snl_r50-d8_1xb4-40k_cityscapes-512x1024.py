# The recipe of the original code: one GPU, batch 4, BN.
_base_ = './snl_r50-d8_4xb2-40k_cityscapes-512x1024.py'

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg),
)
train_dataloader = dict(batch_size=4, num_workers=8)
