# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmseg takes label maps of several channels and of one row for what they are not."""

from __future__ import annotations

from .repair import Repair, replace


def _named(original):
    def _load_seg_map(self, results: dict) -> None:
        path = results.get('seg_map_path')
        try:
            original(self, results)
        except FileNotFoundError:
            raise  # names the file
        except Exception as error:  # decoders raise whatever they like
            raise ValueError(
                f'the label map {path} cannot be read ({type(error).__name__}: {error})'
                '; copy or convert it again'
            ) from error
        labels = results['gt_seg_map']
        if labels.ndim == 3:
            raise ValueError(
                f'the label map {path} has {labels.shape[2]} channels, but class '
                'indices have one: convert its colours to indices'
            )
        size = results.get('img_shape')
        if labels.ndim < 2 and size is not None and labels.size == size[0] * size[1]:
            # squeeze() took a side of length 1 for channels.
            results['gt_seg_map'] = labels.reshape(size[:2])

    return _load_seg_map


def apply(module) -> None:
    replace(module.LoadAnnotations, '_load_seg_map', _named)


REPAIR = Repair(
    name='label_maps',
    symptom='label maps of several channels, of one row or column, or unreadable ones '
    'fail later and without their name',
    remedy='LoadAnnotations keeps rows and columns, and names what it refuses',
    upstream='mmseg/datasets/transforms/loading.py',
    needed=lambda: True,
    apply=apply,
    modules=('mmseg.datasets.transforms.loading',),
)
