_base_ = [
    '../_base_/models/preresnet20.py',
    '../_base_/datasets/mini_cifar10.py',
    '../_base_/schedules/mini_8e.py',
    '../_base_/default_runtime.py',
]
# No dropout: eight epochs are short.
model = dict(
    backbone=dict(
        _delete_=True,
        type='NonLocalBackbone',
        backbone={{_base_.model.backbone}},
        inserts=[dict(after='layer2.1', cfg=dict(type='SNLBlock'))],
    ),
    head=dict(dropout_ratio=0.0),
)
randomness = dict(seed=0)
