# Mean and std of CIFAR-10 as in tea1528's main.py and the SNL repository
_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'
train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=100)
val_evaluator = dict(topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
