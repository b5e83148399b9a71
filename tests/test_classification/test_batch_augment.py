# Copyright (c) The nl_plugins authors. All rights reserved.
"""The batched augmentation has the distribution of mmpretrain's pipeline."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.config import Config  # noqa: E402
from mmengine.dataset import default_collate, pseudo_collate  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmpretrain.models.utils import ClsDataPreprocessor  # noqa: E402
from mmpretrain.registry import MODELS, TRANSFORMS  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from nl_plugins.classification.batch_augment import crop_and_flip  # noqa: E402

MEAN_STD = dict(mean=[125.0, 123.0, 114.0], std=[51.0, 50.0, 51.0])


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def variants(image, padding):
    """Every crop and flip of an image (H, W, C), by its bytes."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding,) * 2, (padding,) * 2, (0, 0)))
    found = {}
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            crop = padded[row : row + height, column : column + width]
            found[crop.tobytes()] = (row, column, False)
            found[crop[:, ::-1].tobytes()] = (row, column, True)
    return found


def chi_squared(counts, outcomes, draws):
    expected = draws / outcomes
    seen = sum((count - expected) ** 2 for count in counts.values())
    return (seen + (outcomes - len(counts)) * expected**2) / expected


@pytest.mark.parametrize('size', [(6, 6), (5, 7)])
def test_same_distribution_as_the_pipeline(size):
    padding, draws = 2, 5000
    image = np.random.default_rng(0).integers(1, 256, (*size, 3), dtype=np.uint8)
    table = variants(image, padding)
    outcomes = 2 * (2 * padding + 1) ** 2
    assert len(table) == outcomes

    torch.manual_seed(0)
    batch = torch.from_numpy(image.transpose(2, 0, 1).copy()).expand(draws, -1, -1, -1)
    ours = crop_and_flip(batch, padding, 0.5).permute(0, 2, 3, 1).numpy()
    ours = Counter(table[crop.tobytes()] for crop in ours)  # KeyError: no such crop

    np.random.seed(0)
    transforms = [
        TRANSFORMS.build(dict(type='RandomCrop', crop_size=size, padding=padding)),
        TRANSFORMS.build(dict(type='RandomFlip', prob=0.5, direction='horizontal')),
    ]
    theirs = Counter()
    for _ in range(draws):
        results = dict(img=image)
        for transform in transforms:
            results = transform(results)
        theirs[table[np.ascontiguousarray(results['img']).tobytes()]] += 1

    # 49 degrees of freedom: above 95 with probability 1e-4; the seeds are fixed.
    assert chi_squared(ours, outcomes, draws) < 95
    assert chi_squared(theirs, outcomes, draws) < 95


def test_images_are_augmented_independently():
    torch.manual_seed(0)
    image = torch.arange(1, 1 + 3 * 32 * 32).reshape(1, 3, 32, 32)
    out = crop_and_flip(image.expand(200, -1, -1, -1), 4, 0.5)
    assert out.dtype == image.dtype
    assert len({tuple(crop.flatten().tolist()) for crop in out}) > 100


@pytest.mark.parametrize('flip', [0.0, 1.0])
def test_without_padding_only_the_flip_remains(flip):
    images = torch.randn(3, 3, 4, 5)
    out = crop_and_flip(images, 0, flip)
    assert torch.equal(out, images.flip(3) if flip else images)


def data(batch=4, as_list=False):
    inputs = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(i) for i in range(batch)]
    return dict(inputs=list(inputs) if as_list else inputs, data_samples=samples)


@pytest.mark.parametrize('as_list', [True, False])
def test_testing_is_unchanged(as_list):
    ours = MODELS.build(dict(type='BatchAugmentDataPreprocessor', **MEAN_STD))
    given = data(as_list=as_list)
    out = ours(given, training=False)
    torch.testing.assert_close(
        out['inputs'], ClsDataPreprocessor(**MEAN_STD)(given)['inputs']
    )
    assert [int(sample.gt_label) for sample in out['data_samples']] == [0, 1, 2, 3]


def test_training_normalises_after_the_augmentation():
    torch.manual_seed(0)
    ours = MODELS.build(
        dict(type='BatchAugmentDataPreprocessor', padding=4, flip_prob=0.0, **MEAN_STD)
    )
    out = ours(data(64), training=True)['inputs']
    black = -torch.tensor(MEAN_STD['mean']) / torch.tensor(MEAN_STD['std'])
    # Padding is black before the normalisation, as in the pipeline.
    corners = out[:, :, 0, 0]
    assert (corners - black).abs().amax(1).min() < 1e-6
    assert out.shape == (64, 3, 32, 32) and out.dtype == torch.float32


class Transfers(TorchDispatchMode):
    """Counts the tensors that go from one device to another."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            self.count += out.device != args[0].device
        return out


@pytest.mark.parametrize('collate', [pseudo_collate, default_collate])
@pytest.mark.parametrize('training', [True, False])
def test_a_batch_takes_two_copies(collate, training):
    items = [
        dict(inputs=image, data_samples=sample)
        for image, sample in zip(*data(128, as_list=True).values())
    ]
    # The meta device stands for a GPU: a tensor has to be copied to get there.
    counts = {}
    for name in ('BatchAugmentDataPreprocessor', 'ClsDataPreprocessor'):
        preprocessor = MODELS.build(dict(type=name, **MEAN_STD)).to('meta')
        batch = collate(copy.deepcopy(items))
        with Transfers() as transfers:
            out = preprocessor(batch, training)
        counts[name] = transfers.count
        assert out['inputs'].shape == (128, 3, 32, 32) and out['inputs'].is_meta
        assert all(sample.gt_label.is_meta for sample in out['data_samples'])
    one_by_one = 2 if collate is default_collate else 129
    assert counts == dict(
        BatchAugmentDataPreprocessor=2, ClsDataPreprocessor=one_by_one
    )


def test_labels_stay_with_their_images():
    ours = MODELS.build(dict(type='BatchAugmentDataPreprocessor', **MEAN_STD))
    samples = [DataSample().set_gt_label(labels) for labels in ([1, 4], [2], [0, 3])]
    batch = dict(inputs=torch.zeros(3, 3, 4, 4), data_samples=samples)
    out = ours(batch)['data_samples']
    assert [sample.gt_label.tolist() for sample in out] == [[1, 4], [2], [0, 3]]
    unlabelled = dict(inputs=torch.zeros(1, 3, 4, 4), data_samples=[DataSample()])
    assert 'gt_label' not in ours(unlabelled)['data_samples'][0]


def test_the_config_stacks_and_pins(root):
    folder = root / 'configs' / 'classification' / 'snl'
    cfg = Config.fromfile(
        folder / 'preresnet20-snl1_1xb128-310e-device-augment_cifar10.py'
    )
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        assert loader.pin_memory and loader.collate_fn.type == 'default_collate'


def test_errors():
    with pytest.raises(ValueError, match='padding must be an integer at least 0'):
        MODELS.build(dict(type='BatchAugmentDataPreprocessor', padding=-1))
    with pytest.raises(ValueError, match=r'flip_prob must be .* in \[0, 1\]'):
        MODELS.build(dict(type='BatchAugmentDataPreprocessor', flip_prob=2))
    ours = MODELS.build(dict(type='BatchAugmentDataPreprocessor'))
    with pytest.raises(ValueError, match='images of one size.*crop or resize'):
        ours(dict(inputs=[torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)]), training=True)
