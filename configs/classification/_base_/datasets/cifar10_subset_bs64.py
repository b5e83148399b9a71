# A few thousand original images in the standard folder, with the standard pipeline:
# python tools/dataset_converters/cifar_npz.py cifar10_subset.npz --keep-order \
#     --out data/cifar10_subset
_base_ = './cifar10_bs128.py'
dataset = dict(type='CIFAR10Subset', data_root='data/cifar10_subset')
train_dataloader = dict(
    batch_size=64, num_workers=0, persistent_workers=False, dataset=dataset
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
