# Copyright (c) The nl_plugins authors. All rights reserved.
"""CamVid road scenes with the usual 11 classes."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ..options import checked


@DATASETS.register_module()
@checked
class CamVidDataset(BaseSegDataset):
    """CamVid (Brostow et al. 2009): 367, 101 and 233 road scenes of 480 x 360.

    The label maps are single-channel PNG files with the values 0..10 in the order of
    the classes below; 11 marks unlabelled pixels and becomes the ignored value 255.
    ``tools/dataset_converters/camvid.py`` makes this layout from the archive::

        camvid/images/{train,val,test}/NAME.jpg
        camvid/labels/{train,val,test}/NAME.png

    Args:
        img_suffix (str): Suffix of the images. Defaults to '.jpg'.
        seg_map_suffix (str): Suffix of the label maps. Defaults to '.png'.
        **kwargs: Further options of mmseg's ``BaseSegDataset``.

    Raises:
        ValueError: If ``metainfo`` names classes that CamVid does not have.
        FileNotFoundError: If the folder of images does not exist.
    """

    METAINFO = dict(
        classes=(
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    )
    UNLABELLED = 11

    passed_on = dict(
        ann_file=str,
        metainfo=dict | None,
        data_root=str | None,
        data_prefix=dict,
        indices=int | Sequence[int] | None,
        test_mode=bool,
        lazy_init=bool,
        ignore_index=int,
        reduce_zero_label=bool,
    )

    def __init__(
        self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', **kwargs
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int]:
        """Value in the file -> class index; 255 where the pixel is ignored.

        Args:
            new_classes (Sequence[str], optional): A subset of the classes, in the
                wanted order. Defaults to None, all.

        Returns:
            dict[int, int]: The values that change.
        """
        chosen = super().get_label_map(new_classes) or {}
        return {**chosen, cls.UNLABELLED: 255}
