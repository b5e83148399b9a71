# Copyright (c) The nl_plugins authors. All rights reserved.
"""Spatial transforms with the pixels of TSM's and RNL's PIL pipeline."""

import mmcv
import numpy as np
from mmaction.datasets.transforms import CenterCrop, Resize, ThreeCrop
from mmaction.registry import TRANSFORMS

from ..options import Count, checked


@TRANSFORMS.register_module()
@checked
class PILResize(Resize):
    """``Resize`` by PIL's antialiased bilinear filter.

    A short side s, ``scale=(-1, s)``, makes the long side ``int(s long / short)``,
    where ``Resize`` rounds; a picture whose short side is s stays as it is. Frames are
    uint8 of one, two (flow) or three channels.

    Args:
        scale (tuple[int]): ``(-1, short side)``, or (w, h) with ``keep_ratio=False``.
        keep_ratio (bool): Defaults to True.

    Raises:
        ValueError: If ``keep_ratio`` is True and ``scale`` is not ``(-1, short side)``.
    """

    def __init__(self, scale: tuple[int, int], keep_ratio: bool = True) -> None:
        super().__init__(scale, keep_ratio=False)
        self.short_side = None
        if keep_ratio:
            if min(scale) != -1 or max(scale) < 1:
                raise ValueError(
                    f'{type(self).__name__}: with keep_ratio=True scale must be '
                    f'(-1, short side), but got {scale!r}'
                )
            self.short_side = max(scale)

    def transform(self, results: dict) -> dict:
        """Resize the frames of ``results['imgs']``."""
        if self.short_side is not None:
            height, width = results['img_shape']
            short = min(height, width)
            self.scale = tuple(
                int(self.short_side * side / short) for side in (width, height)
            )
        return super().transform(results)

    def _resize_imgs(
        self, imgs: list[np.ndarray], new_w: int, new_h: int
    ) -> list[np.ndarray]:
        return [_pil_resize(img, (new_w, new_h)) for img in imgs]

    def __repr__(self) -> str:
        scale = self.scale if self.short_side is None else (-1, self.short_side)
        return f'{type(self).__name__}(scale={scale})'


def _pil_resize(img: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if img.shape[1::-1] == size:
        return img
    if img.ndim == 3 and img.shape[2] == 2:
        return np.stack([_pil_resize(img[..., i], size) for i in (0, 1)], axis=-1)
    return mmcv.imresize(img, size, backend='pillow')


@TRANSFORMS.register_module()
@checked
class PILCenterCrop(CenterCrop):
    """``CenterCrop`` whose offset is rounded half to even instead of down.

    The offset along a side of L pixels is ``round((L - crop) / 2)``, as torchvision's.

    Args:
        crop_size (int | tuple[int]): (w, h) of the crop.

    Raises:
        ValueError: If the frames are smaller than the crop.
    """

    passed_on = dict(crop_size=Count | tuple[Count, Count], lazy=bool)

    def transform(self, results: dict) -> dict:
        """Crop the frames of ``results['imgs']``."""
        height, width = results['img_shape']
        crop_w, crop_h = self.crop_size
        _check_size(self, results['img_shape'], self.crop_size)
        left, top = round((width - crop_w) / 2), round((height - crop_h) / 2)
        box = np.array([left, top, left + crop_w, top + crop_h])
        results['imgs'] = self._crop_imgs(results['imgs'], box)
        results['crop_bbox'] = box
        results['img_shape'] = (crop_h, crop_w)
        return results


@TRANSFORMS.register_module()
@checked
class FullResThreeCrop(ThreeCrop):
    """Three crops along the longer side, on TSM's grid of quarters.

    With s = (L - crop) // 4 along the longer side the crops lie at 0, 4 s and 2 s, in
    this order, and at 2 ((l - crop) // 4) along the other. ``ThreeCrop`` halves
    instead, which moves the second crop by up to two pixels, and refuses crops smaller
    than the shorter side.

    Args:
        crop_size (int | tuple[int]): (w, h) of a crop.

    Raises:
        ValueError: If the frames are smaller than the crop.
    """

    passed_on = dict(crop_size=Count | tuple[Count, Count])

    def transform(self, results: dict) -> dict:
        """Replace the frames of ``results['imgs']`` by those of the three crops."""
        imgs = results['imgs']
        height, width = imgs[0].shape[:2]
        crop_w, crop_h = self.crop_size
        _check_size(self, (height, width), self.crop_size)
        w_step, h_step = (width - crop_w) // 4, (height - crop_h) // 4
        cropped, boxes = [], []
        for quarters in (0, 4, 2):
            left = (quarters if width >= height else 2) * w_step
            top = (2 if width >= height else quarters) * h_step
            cropped += [img[top : top + crop_h, left : left + crop_w] for img in imgs]
            boxes += [[left, top, left + crop_w, top + crop_h]] * len(imgs)
        results['imgs'] = cropped
        results['crop_bbox'] = np.array(boxes)
        results['img_shape'] = (crop_h, crop_w)
        return results


def _check_size(transform, img_shape, crop_size) -> None:
    height, width = img_shape
    crop_w, crop_h = crop_size
    if crop_w > width or crop_h > height:
        raise ValueError(
            f'{type(transform).__name__}: frames of {width}x{height} are smaller than '
            f'the crop of {crop_w}x{crop_h}; resize them first'
        )
