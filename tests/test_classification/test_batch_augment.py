# Copyright (c) The nl_plugins authors. All rights reserved.
"""The batched augmentation has the distribution of mmpretrain's pipeline."""

from collections import Counter

import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.registry import init_default_scope  # noqa: E402
from mmpretrain.models.utils import ClsDataPreprocessor  # noqa: E402
from mmpretrain.registry import MODELS, TRANSFORMS  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402

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


def test_errors():
    with pytest.raises(ValueError, match='padding must be an integer at least 0'):
        MODELS.build(dict(type='BatchAugmentDataPreprocessor', padding=-1))
    with pytest.raises(ValueError, match=r'flip_prob must be .* in \[0, 1\]'):
        MODELS.build(dict(type='BatchAugmentDataPreprocessor', flip_prob=2))
    ours = MODELS.build(dict(type='BatchAugmentDataPreprocessor'))
    with pytest.raises(ValueError, match='images of one size.*crop or resize'):
        ours(dict(inputs=[torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)]), training=True)
