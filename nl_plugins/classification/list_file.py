# Copyright (c) The nl_plugins authors. All rights reserved.
"""Images named in a list file, in either format of the originals."""

import re

from mmengine.fileio import join_path
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from ..compat.text_lists import leaves, read_list
from ..options import Count, checked
from .cifar import check_labels

_LINE = re.compile(r'(?P<path>.+?)(?:\s*,\s*|\s+)(?P<label>[+-]?\d+)')


@DATASETS.register_module()
@checked
class ListFileDataset(CustomDataset):
    """Images of a list with a line ``path label`` or ``path,label`` each.

    The first is CGNL's format (any white space), the second SNL's; a path may hold
    spaces or commas. Empty lines are skipped.

    Args:
        ann_file (str): The list, relative to ``data_root``.
        data_prefix (str | dict): Folder of the images, relative to ``data_root``.
            Defaults to ``''``.
        num_classes (int, optional): Number of classes where no names are given; they
            are then called '0', '1', ... Defaults to None.
        allow_outside (bool): Take absolute paths, paths with ``..`` and URLs.
            Defaults to False.
        **kwargs: Arguments of mmpretrain's ``CustomDataset``, among them ``data_root``,
            ``classes`` and ``pipeline``.
    """

    def __init__(
        self,
        ann_file: str,
        data_prefix: str | dict = '',
        num_classes: Count | None = None,
        allow_outside: bool = False,
        **kwargs,
    ) -> None:
        names = kwargs.get('classes') or (kwargs.get('metainfo') or {}).get('classes')
        if names is None and num_classes is None:
            raise ValueError(
                'ListFileDataset needs the classes: give classes=[...] (names) or '
                'num_classes=N'
            )
        if names is None:
            kwargs['classes'] = [str(i) for i in range(num_classes)]
        self.allow_outside = allow_outside
        super().__init__(ann_file=ann_file, data_prefix=data_prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One dict(img_path, gt_label) a line.

        Raises:
            ValueError: A missing list, a line in neither format, a label without class.
        """
        text = read_list(self.ann_file)
        data_list = []
        for number, line in enumerate(text.split('\n'), 1):
            if not line.strip():
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise ValueError(
                    f"{self.ann_file}, line {number}: expected 'path label' or "
                    f"'path,label', but got {line!r}"
                )
            label = int(match['label'])
            check_labels([label], self.CLASSES, f'{self.ann_file}, line {number},')
            path = match['path']
            if not self.allow_outside and leaves(path):
                raise ValueError(
                    f'{self.ann_file}, line {number}: {path!r} leaves the folder of '
                    'the images; allow_outside=True takes such paths'
                )
            path = join_path(self.img_prefix, path) if self.img_prefix else path
            data_list.append(dict(img_path=path, gt_label=label))
        if not data_list:
            raise ValueError(f'the list {self.ann_file} names no image')
        return data_list
