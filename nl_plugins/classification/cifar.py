# Copyright (c) The nl_plugins authors. All rights reserved.
"""CIFAR folders other than the published ones: subsets, re-encoded and mini sets."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from mmengine.fileio import exists, get, join_path
from mmpretrain.datasets import CIFAR10, CIFAR100
from mmpretrain.registry import DATASETS

from ..compat.plain_arrays import PlainUnpickler
from ..options import Filled, accepts, checked


@checked
class _Unverified:
    """The folder format of CIFAR without the checksums of the published files."""

    # Names then come from the folder's own meta file.
    METAINFO: dict = {}

    def __init__(
        self,
        data_root: str | Path = '',
        split: Literal['train', 'test'] = 'train',
        **kwargs,
    ) -> None:
        if kwargs.pop('download', False):
            raise ValueError(
                f'{type(self).__name__} reads what lies in data_root and downloads '
                f'nothing: leave out download, or use {type(self).__mro__[2].__name__}'
            )
        super().__init__(data_root, split, download=False, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One dict(img=(32, 32, 3) uint8 RGB, gt_label=int) an image.

        Raises:
            ValueError: A file is missing or damaged, images and labels disagree, or a
                label has no class name.
        """
        if self.CLASSES is None:
            meta = self._read(self.meta['filename'], self.meta['key'])
            names = meta[self.meta['key']]
            where = f'{self._path(self.meta["filename"])}: {self.meta["key"]}'
            if not accepts(Annotated[Sequence[str], Filled()], names):
                raise ValueError(
                    f'{where} must be a list of class names, but got {names!r}'
                )
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(
                    f'{where} holds the class name {twice!r} more than once'
                )
            self._metainfo['classes'] = tuple(names)
        data_list = []
        files = self.train_list if self.split == 'train' else self.test_list
        for name, _ in files:
            batch = self._read(name, 'data')
            images = np.asarray(batch['data'])
            labels = batch.get('labels', batch.get('fine_labels'))
            if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3072:
                raise ValueError(
                    f'{self._path(name)} must hold uint8 images (N, 3072), but holds '
                    f'{images.dtype} of shape {images.shape}'
                )
            if labels is None or len(labels) != len(images):
                found = 'no' if labels is None else len(labels)
                raise ValueError(
                    f'{self._path(name)} holds {len(images)} images, but {found} labels'
                )
            check_labels(labels, self.CLASSES, self._path(name))
            for image, label in zip(images.reshape(-1, 3, 32, 32), labels):
                data_list.append(
                    dict(img=image.transpose(1, 2, 0), gt_label=int(label))
                )
        return data_list

    def _path(self, name: str) -> str:
        return join_path(self.data_prefix['root'], self.base_folder, name)

    def _read(self, name: str, key: str) -> dict:
        path = self._path(name)
        if not exists(path):
            raise ValueError(
                f'{type(self).__name__} needs {path}, which does not exist: check '
                'data_root, or make the folder with tools/dataset_converters'
            )
        try:
            content = PlainUnpickler(io.BytesIO(get(path)), encoding='latin1').load()
            content[key]
        except Exception as error:  # a damaged pickle fails in many ways
            raise ValueError(
                f'{path} is damaged or not a CIFAR batch ({error!r}): copy or make it '
                'again'
            ) from error
        return content


@DATASETS.register_module()
class CIFAR10Subset(_Unverified, CIFAR10):
    """mmpretrain's ``CIFAR10`` for any images in its folder format.

    Reads ``<data_root>/cifar-10-batches-py/`` (``data_batch_1`` to ``5``,
    ``test_batch``, ``batches.meta``) whatever the checksums, never downloads, executes
    nothing that the pickles name, and takes the class names from ``batches.meta``.

    Args:
        data_root (str): Folder that holds ``cifar-10-batches-py``.
        split (str): ``'train'`` or ``'test'``. Defaults to ``'train'``.
        **kwargs: Arguments of mmpretrain's ``CIFAR10``.
    """


@DATASETS.register_module()
class CIFAR100Subset(_Unverified, CIFAR100):
    """mmpretrain's ``CIFAR100`` for any images in its folder format.

    As :class:`CIFAR10Subset`, from ``<data_root>/cifar-100-python/`` (``train``,
    ``test``, ``meta``), with the fine labels.

    Args:
        data_root (str): Folder that holds ``cifar-100-python``.
        split (str): ``'train'`` or ``'test'``. Defaults to ``'train'``.
        **kwargs: Arguments of mmpretrain's ``CIFAR100``.
    """


def check_labels(labels, classes, source: str | Path) -> None:
    """Raise ValueError, naming ``source``, unless every label is a class index."""
    odd = [label for label in labels if not accepts(int, label)]
    if odd:
        raise ValueError(
            f'{source} has {len(odd)} labels that are not integers, the first is '
            f'{odd[0]!r}'
        )
    bad = [label for label in labels if not 0 <= int(label) < len(classes)]
    if bad:
        raise ValueError(
            f'{source} has {len(bad)} labels outside 0..{len(classes) - 1} (there are '
            f'{len(classes)} classes), the first is {bad[0]}'
        )
