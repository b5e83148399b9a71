# Copyright (c) The nl_plugins authors. All rights reserved.
"""The CIFAR augmentation for a whole batch at once, on the device of the model."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from torch import Tensor

from ..options import Count, Natural, Positive, Share, checked


@MODELS.register_module()
@checked
class BatchAugmentDataPreprocessor(ClsDataPreprocessor):
    """Random crop with padding and random flip of a batch, then normalisation.

    The same distribution as ``RandomCrop(crop_size, padding)`` and ``RandomFlip(prob)``
    in the pipeline, whose only transform is then ``PackInputs``: for each image every
    crop offset in 0..2*padding is equally likely, in both directions, and independent
    of the flip. Only in training; the network sees the same images in testing.

    A batch goes to the device in two copies, its images and its labels, from pinned
    memory and without the host waiting. ``collate_fn=dict(type='default_collate')`` and
    ``pin_memory=True`` in the dataloader stack and pin the images in its workers;
    otherwise it happens here.

    Args:
        padding (int): Zero pixels on every side before the crop. Defaults to 4.
        flip_prob (float): Probability of a horizontal flip. Defaults to 0.5.
        **kwargs: Arguments of mmpretrain's ``ClsDataPreprocessor``: mean, std, ...

    Raises:
        ValueError: If an option is outside its range, or the images of a batch come
            as a list or differ in size.
    """

    passed_on = dict(
        mean=Sequence[float] | None,
        std=Sequence[Positive] | None,
        pad_size_divisor=Count,
        to_rgb=bool,
        to_onehot=bool,
        num_classes=Count | None,
    )

    def __init__(self, padding: Natural = 4, flip_prob: Share = 0.5, **kwargs) -> None:
        mean, std = kwargs.get('mean'), kwargs.get('std')
        if len({1 if v is None else len(v) for v in (mean, std)} - {1}) > 1:
            raise ValueError(
                f'{type(self).__name__}: mean and std must have a number for each '
                f'channel, but got {len(mean)} and {len(std)}'
            )
        super().__init__(**kwargs)
        self.padding = padding
        self.flip_prob = flip_prob

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move to the device, augment in training, normalise.

        Args:
            data (dict): ``inputs``, (B, C, H, W) or a list of B images (C, H, W) of one
                size, and ``data_samples``.
            training (bool): Whether to augment.

        Returns:
            dict: As ``ClsDataPreprocessor``.
        """
        inputs = data['inputs']
        if not isinstance(inputs, Tensor):
            sizes = {tuple(image.shape) for image in inputs}
            if len(sizes) > 1:
                raise ValueError(
                    'BatchAugmentDataPreprocessor takes images of one size, but a '
                    f'batch holds {sorted(sizes)}: crop or resize in the pipeline'
                )
            inputs = torch.stack(list(inputs))
        inputs = self._to_device(inputs)
        self._move_labels(data.get('data_samples'))
        if training:
            inputs = crop_and_flip(inputs, self.padding, self.flip_prob)
        return super().forward({**data, 'inputs': inputs}, training)

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == 'cuda' and tensor.device.type == 'cpu':
            tensor = tensor.pin_memory()  # nothing is copied where it is pinned already
        return tensor.to(self.device, non_blocking=True)

    def _move_labels(self, samples: Sequence | None) -> None:
        """Give the samples their parts of one tensor on the device."""
        samples = samples or []
        labels = [s.gt_label for s in samples if isinstance(s.get('gt_label'), Tensor)]
        if len(labels) < len(samples) or not labels:
            return
        moved = self._to_device(torch.cat(labels))
        parts = moved.split([len(label) for label in labels])
        for sample, part in zip(samples, parts):
            sample.set_gt_label(part)


def crop_and_flip(images: Tensor, padding: int, flip_prob: float) -> Tensor:
    """Pad each image with zeros, cut its size out at random, flip some.

    Args:
        images (Tensor): (B, C, H, W) of any type.
        padding (int): Pixels on every side.
        flip_prob (float): Probability of a horizontal flip.

    Returns:
        Tensor: (B, C, H, W).
    """
    batch, _, height, width = images.shape
    device = images.device

    def offsets(size: int) -> Tensor:
        start = torch.randint(2 * padding + 1, (batch, 1), device=device)
        return start + torch.arange(size, device=device)

    rows, columns = offsets(height), offsets(width)
    flipped = torch.rand(batch, 1, device=device) < flip_prob
    columns = torch.where(flipped, columns.flip(1), columns)
    padded = F.pad(images, (padding,) * 4)
    index = torch.arange(batch, device=device)[:, None, None]
    # Indices around a slice put the channels last.
    cropped = padded[index, :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2).contiguous()
