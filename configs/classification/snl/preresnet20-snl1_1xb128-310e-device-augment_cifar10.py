_base_ = './preresnet20-snl1_1xb128-310e_cifar10.py'
data_preprocessor = dict(type='BatchAugmentDataPreprocessor', padding=4, flip_prob=0.5)
# A batch is stacked and pinned where it is loaded, and copied at once.
loading = dict(
    collate_fn=dict(type='default_collate'), pin_memory=True, persistent_workers=True
)
train_dataloader = dict(dataset=dict(pipeline=[dict(type='PackInputs')]), **loading)
val_dataloader = loading
test_dataloader = dict(collate_fn=dict(type='default_collate'), pin_memory=True)
