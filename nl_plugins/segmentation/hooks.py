# Copyright (c) The nl_plugins authors. All rights reserved.
"""Refuse data and checkpoints that would train or score nonsense."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from mmcv.transforms import LoadAnnotations
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from mmseg.registry import HOOKS
from torch import Tensor, nn

from ..files import UnreadableError, open_picture
from ..options import checked

if TYPE_CHECKING:
    from PIL import Image

DATA_BATCH = dict | tuple | list | None


@HOOKS.register_module()
@checked
class SegDataCheckHook(Hook):
    """Stop with one clear sentence instead of training or scoring on wrong input.

    ===================================  =====================  ======================
    mistake                              without this hook      when it is found
    ===================================  =====================  ======================
    a missing label map                  error in a worker,     before the first
                                         perhaps hours later    iteration
    label map and image differ in size   silently misaligned    before the first
                                                                iteration
    a truncated file; a label map in     error without a name   before the first
    colours, or of values above 255      in a worker, or none   iteration
    a label value outside the classes    device-side assert on  with the batch
                                         a GPU, ignored by the
                                         metric
    crops of several sizes, no padding   ``torch.stack`` error  with the batch
    testing a checkpoint of another      a warning, then a      before the first
    class count                          random classifier      prediction
    ===================================  =====================  ======================

    Fine-tuning from a checkpoint of another class count stays possible. Only headers
    and ends of local files are read before the start, on the main process: about 0.1 ms
    a file.

    Args:
        check_files (bool | str): Look at every image and label map before the first
            iteration; ``'decode'`` decodes them, which finds damage in the middle of a
            file, too. Defaults to True.

    Raises:
        ValueError: For each mistake of the table, naming the file and the remedy.
    """

    priority = 'VERY_HIGH'

    def __init__(self, check_files: bool | Literal['decode'] = True) -> None:
        self.check_files = check_files

    def before_train(self, runner: Runner) -> None:
        """Check the files of the training and the validation set."""
        self._check_files(runner.train_dataloader.dataset)
        if runner.val_loop is not None:
            self._check_files(runner.val_loop.dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Check the files of the test set."""
        self._check_files(runner.test_loop.dataloader.dataset)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Check the labels of a batch and the sizes of its crops."""
        dataset = runner.train_dataloader.dataset
        check_labels(data_batch, dataset.metainfo, _ignore_index(dataset))
        check_crops(data_batch, _unwrap(runner.model).data_preprocessor.size)

    def before_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Check the labels of a batch."""
        dataset = runner.val_dataloader.dataset
        check_labels(data_batch, dataset.metainfo, _ignore_index(dataset))

    def before_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Check the labels of a batch."""
        dataset = runner.test_dataloader.dataset
        check_labels(data_batch, dataset.metainfo, _ignore_index(dataset))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the classifier's width with the model's, unless it is trained."""
        if isinstance(runner._train_loop, BaseLoop):
            return  # the loop has been built: the weights are a starting point
        check_class_count(
            _unwrap(runner.model), checkpoint.get('state_dict', checkpoint)
        )

    def _check_files(self, dataset) -> None:
        if not self.check_files or not is_main_process():
            return
        for part in _parts(dataset):
            if not _loads_labels(part.pipeline):
                continue  # the pictures of a test server have none
            if getattr(part, 'backend_args', None):
                print_log(
                    f'{type(part).__name__} reads through {part.backend_args}: its '
                    'files are not checked before the start',
                    logger='current',
                    level=logging.WARNING,
                )
                continue
            infos = (part.get_data_info(index) for index in range(len(part)))
            with ThreadPoolExecutor() as pool:
                decode = self.check_files == 'decode'
                list(pool.map(partial(check_pair, decode=decode), infos))


def check_pair(info: dict, decode: bool = False) -> None:
    """Check an image and its label map by their headers and last bytes.

    Args:
        info (dict): ``img_path`` and, if labelled, ``seg_map_path``.
        decode (bool): Decode both, which finds damage in the middle, too. Defaults to
            False.

    Raises:
        ValueError: If a file is missing, unreadable or truncated, the sizes differ, or
            the label map is no map of class indices from 0 to 255.
    """
    if 'seg_map_path' not in info:
        return
    sizes = {}
    for kind, key in (('image', 'img_path'), ('label map', 'seg_map_path')):
        path = Path(info[key])
        if not path.is_file():
            raise ValueError(
                f'the {kind} {path} does not exist. Check data_root, data_prefix and '
                'the suffixes of the dataset'
            )
        try:
            with open(path, 'rb') as file:
                image = open_picture(file, decode)
                sizes[kind] = image.size
                if key == 'seg_map_path':
                    _check_indices(image, path)
        except UnreadableError as error:
            raise ValueError(
                f'the {kind} {path} is truncated or not a readable image ({error}). '
                'Copy it again'
            ) from error
    if sizes['image'] != sizes['label map']:
        raise ValueError(
            f'{info["img_path"]} has {_size(sizes["image"])} pixels, but its label map '
            f'{info["seg_map_path"]} has {_size(sizes["label map"])}. Label maps must '
            'have the size of their image'
        )


def _check_indices(image: Image.Image, path: Path) -> None:
    bands = image.getbands()
    if len(bands) > 1:
        raise ValueError(
            f'the label map {path} has the channels {", ".join(bands)}, but class '
            'indices have one. Convert its colours to indices'
        )
    if image.mode in ('1', 'L', 'P'):
        return
    # Only such files hold more than a byte, of which the loader keeps the last.
    low, high = image.getextrema()
    if image.mode == 'F' or low < 0 or high > 255:
        raise ValueError(
            f'the label map {path} holds values from {low} to {high} ({image.mode}), '
            'but class indices are integers from 0 to 255. Convert its values'
        )


def check_labels(data_batch: DATA_BATCH, metainfo: dict, ignore_index: int) -> None:
    """Check that every label value of a batch is a class or ignored.

    Args:
        data_batch (dict): A batch before preprocessing; without labels it passes.
        metainfo (dict): Meta information of the dataset with ``classes``.
        ignore_index (int): The value of ignored pixels.

    Raises:
        ValueError: Naming the values, the file and the classes.
    """
    classes = metainfo.get('classes')
    if not isinstance(data_batch, dict) or not classes:
        return
    for sample in _samples(data_batch):
        if 'gt_sem_seg' not in sample:
            continue
        labels = sample.gt_sem_seg.data
        strange = (labels >= len(classes)) & (labels != ignore_index)
        if strange.any():
            values = torch.unique(labels[strange]).tolist()
            raise ValueError(
                f'{sample.get("seg_map_path", "a label map")} holds the label values '
                f'{values[:5]}, but the dataset has the {len(classes)} classes '
                f'0..{len(classes) - 1} and {ignore_index} for ignored pixels. Convert '
                'the label maps or give the dataset its label_map'
            )


def check_crops(data_batch: DATA_BATCH, size: tuple[int, int] | None) -> None:
    """Check that the crops of a batch can be stacked.

    Args:
        data_batch (dict): A batch before preprocessing.
        size (tuple[int, int], optional): What the preprocessor pads to, (H, W).

    Raises:
        ValueError: If the sizes differ and nothing is padded, or a crop is larger
            than what the others are padded to.
    """
    if not isinstance(data_batch, dict):
        return
    shapes = {tuple(image.shape[-2:]) for image in data_batch['inputs']}
    if size is not None:
        shapes = {
            tuple(max(have, want) for have, want in zip(shape, size))
            for shape in shapes
        }
    if len(shapes) > 1:
        found = ', '.join(f'{height} x {width}' for height, width in sorted(shapes))
        raise ValueError(
            f'a batch holds crops of {found} pixels (height x width), which cannot be '
            'stacked: some images are smaller than the crop and are not padded. Set '
            'model.data_preprocessor.size to the crop size, or resize the images to '
            'at least the crop'
        )


def check_class_count(model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Check that a checkpoint's classifiers have the model's number of classes.

    Args:
        model (nn.Module): A segmentor.
        state_dict (dict[str, Tensor]): The checkpoint's tensors.

    Raises:
        ValueError: Naming the classifier and both counts.
    """
    for name, weight in model.state_dict().items():
        loaded = state_dict.get(name)
        if not name.endswith('conv_seg.weight') or loaded is None:
            continue
        if loaded.shape[0] != weight.shape[0]:
            raise ValueError(
                f'the checkpoint was trained for {loaded.shape[0]} classes, but the '
                f'model has {weight.shape[0]} ({name}). Test it with the config it was '
                'trained with, or train this model from it first'
            )


def _unwrap(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _parts(dataset) -> Iterator:
    """The plain datasets inside wrappers such as Repeat- and ConcatDataset."""
    if hasattr(dataset, 'get_data_info') and hasattr(dataset, 'data_prefix'):
        yield dataset
    for inner in getattr(dataset, 'datasets', [getattr(dataset, 'dataset', None)]):
        if inner is not None:
            yield from _parts(inner)


def _loads_labels(pipeline) -> bool:
    # Compose has `transforms`, test-time augmentation has `subroutines`.
    steps = getattr(pipeline, 'transforms', None) or getattr(
        pipeline, 'subroutines', ()
    )
    return isinstance(pipeline, LoadAnnotations) or any(map(_loads_labels, steps))


def _ignore_index(dataset) -> int:
    return next((part.ignore_index for part in _parts(dataset)), 255)


def _samples(data_batch: dict) -> Iterator:
    # Test-time augmentation batches hold a list of samples for each view.
    for sample in data_batch.get('data_samples') or ():
        yield from sample if isinstance(sample, (list, tuple)) else (sample,)


def _size(size: tuple[int, int]) -> str:
    return f'{size[0]} x {size[1]}'
