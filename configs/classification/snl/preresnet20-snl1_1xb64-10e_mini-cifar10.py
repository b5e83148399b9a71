_base_ = [
    '../_base_/models/preresnet20.py',
    '../_base_/datasets/mini_cifar10.py',
    '../_base_/schedules/cifar_subset_10e.py',
    '../_base_/default_runtime.py',
]
# No dropout: the pictures never repeat, and ten epochs are short.
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[dict(after='layer2.1', cfg=dict(type='SNLBlock'))],
    ),
    head=dict(dropout_ratio=0.0),
)
train_cfg = dict(val_interval=10)
randomness = dict(seed=0)
