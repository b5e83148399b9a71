_base_ = './preresnet20-snl1_1xb128-310e_cifar10.py'
data_preprocessor = dict(type='BatchAugmentDataPreprocessor', padding=4, flip_prob=0.5)
train_dataloader = dict(dataset=dict(pipeline=[dict(type='PackInputs')]))
