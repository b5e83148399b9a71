# Copyright (c) The nl_plugins authors. All rights reserved.
"""A negative hue offset does not fit numpy 2's uint8."""

import sys

import numpy as np

from .repair import Repair, release, replace


class _HueFactor(float):
    """A hue factor whose product with 255 is an offset from 0 to 255.

    mmcv adds ``np.uint8(hue_factor * 255)`` to the hue; numpy 1 took negative
    numbers modulo 256.
    """

    def __mul__(self, other):
        return float(int(float(self) * other) % 256)


def _mmcv_adjust_hue(original):
    def adjust_hue(img, hue_factor, backend=None):
        return original(img, _HueFactor(hue_factor), backend)

    return adjust_hue


def _mmaction_adjust_hue(original):
    def adjust_hue(img, factor):
        offset = int(factor * 255)
        if offset >= 0:
            return original(img, factor)
        import cv2

        hsv = cv2.cvtColor(np.clip(img, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
        # OpenCV's 8-bit hue counts 180 steps.
        hsv[..., 0] = (hsv[..., 0].astype(np.int64) + offset) % 180
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)

    return adjust_hue


def needed() -> bool:
    return release(np.__version__) >= (2,)


def apply(module) -> None:
    if module.__name__ == 'mmcv.image.photometric':
        original = module.adjust_hue
        replace(module, 'adjust_hue', _mmcv_adjust_hue)
        for package in ('mmcv.image', 'mmcv'):
            owner = sys.modules.get(package)
            if getattr(owner, 'adjust_hue', None) is original:
                owner.adjust_hue = module.adjust_hue
    else:
        # ColorJitter holds it as a static method.
        replaced = module.ColorJitter.adjust_hue
        if not getattr(replaced, '_replaced_by_nl_plugins', False):
            replace(module.ColorJitter, 'adjust_hue', _mmaction_adjust_hue)
            module.ColorJitter.adjust_hue = staticmethod(module.ColorJitter.adjust_hue)


REPAIR = Repair(
    name='negative_hue',
    symptom='a negative hue offset overflows uint8 in adjust_hue and ColorJitter',
    remedy='the offset is added modulo the range, as numpy 1 did',
    upstream='mmcv/image/photometric.py, mmaction/datasets/transforms/processing.py',
    needed=needed,
    apply=apply,
    modules=('mmcv.image.photometric', 'mmaction.datasets.transforms.processing'),
)
