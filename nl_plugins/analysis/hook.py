# Copyright (c) The nl_plugins authors. All rights reserved.
"""Attention and spectra in the run's own visualiser."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn as nn
from mmengine.dist import is_main_process
from mmengine.hooks.hook import Hook  # its package may be half imported
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from ..options import Count, Filled, Share, checked
from .picture import (
    draw_attention,
    draw_spectrum,
    film_strip,
    network_frames,
    query_time,
)
from .record import record_attention
from .spectrum import filter_response, graph_spectrum


@HOOKS.register_module()
@checked
class NonLocalVisualizationHook(Hook):
    """Draw where non-local blocks look, during validation and testing.

    Every ``interval`` batches the first sample is drawn, one picture a block with a
    column (clips: a film strip) a position, through the run's visualiser: its
    ``LocalVisBackend`` writes ``vis_data/vis_image/attention_val_0_LAYER_ITER.png``,
    a TensorBoard backend shows the same names. Only the main process draws::

        custom_hooks = [dict(type='NonLocalVisualizationHook', enable=True)]

    Args:
        enable (bool): Whether to draw. Defaults to False.
        interval (int): Batches between pictures. Defaults to 50.
        layers (Sequence[str], optional): Names of blocks, or of modules that hold
            blocks. Defaults to None, all blocks.
        positions (Sequence[Sequence[float]]): Queries (y, x) or (t, y, x), each a
            fraction of the input's size. Defaults to ((0.5, 0.5), ).
        alpha (float): Opacity of the largest weight. Defaults to 0.8.
        spectrum (bool): Draw the eigenvalues of each square affinity and the gain of
            the block's filter, too. Defaults to False.

    Raises:
        ValueError: If ``interval`` is not positive or a position is outside [0, 1).
        OSError: If a picture could not be written.
    """

    def __init__(
        self,
        enable: bool = False,
        interval: Count = 50,
        layers: Sequence[str] | None = None,
        positions: Annotated[Sequence[Sequence[float]], Filled()] = ((0.5, 0.5),),
        alpha: Share = 0.8,
        spectrum: bool = False,
    ) -> None:
        for position in positions:
            if len(position) not in (2, 3) or not all(0 <= p < 1 for p in position):
                raise ValueError(
                    'positions must be (y, x) or (t, y, x) with fractions in [0, 1), '
                    f'but got {tuple(position)}'
                )
        self.enable = enable
        self.interval = interval
        self.layers = layers
        self.positions = positions
        self.alpha = alpha
        self.spectrum = spectrum
        self._hooks = ExitStack()
        self._records: dict = {}
        self._inputs: list = []

    def before_run(self, runner) -> None:
        """Say so where the pictures would go nowhere."""
        if self.enable and not runner.visualizer._vis_backends:
            runner.logger.warning(
                'NonLocalVisualizationHook draws, but the visualizer of the run has no '
                'backend; add '
                "visualizer=dict(vis_backends=[dict(type='LocalVisBackend')])"
            )

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Begin to record."""
        self._begin(runner, batch_idx)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Draw what was recorded."""
        self._end(runner, f'val_{batch_idx}')

    def before_test_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Begin to record."""
        self._begin(runner, batch_idx)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Draw what was recorded."""
        self._end(runner, f'test_{batch_idx}')

    def after_run(self, runner) -> None:
        """Remove what an interrupted batch left."""
        self._hooks.close()

    def _begin(self, runner, batch_idx: int) -> None:
        self._hooks.close()
        self._records, self._inputs = {}, []
        if not self.enable or batch_idx % self.interval or not is_main_process():
            return
        model = _unwrap(runner.model)
        self._records = self._hooks.enter_context(record_attention(model, self.layers))
        handle = getattr(model, 'backbone', model).register_forward_pre_hook(
            lambda module, args: self._inputs.append(args[0])
        )
        self._hooks.callback(handle.remove)

    @torch.no_grad()
    def _end(self, runner, name: str) -> None:
        self._hooks.close()
        if not self._records or not self._inputs:
            return
        model = _unwrap(runner.model)
        frames = network_frames(model, self._inputs[-1])
        for layer, record in self._records.items():
            shown = frames_of(record, frames, self._inputs[-1].ndim)
            drawn = [
                film_strip(
                    draw_attention(record, shown, position, self.alpha),
                    query_time(position),
                )
                for position in self.positions
            ]
            # Film strips are wide, so that they stand one below the other.
            picture = np.concatenate(drawn, axis=0 if len(shown) > 1 else 1)
            _show(runner, f'attention_{name}_{layer}', picture)
            _, queries, keys = record.affinity.shape
            if self.spectrum and queries == keys:
                block = model.get_submodule(layer)
                picture = spectrum_picture(block, record, layer)
                _show(runner, f'spectrum_{name}_{layer}', picture)
        self._records, self._inputs = {}, []


def _show(runner, name: str, picture: np.ndarray) -> None:
    """Hand a picture to every backend, under a name that is a file name, too.

    Raises:
        OSError: If a local backend has not written it: it says nothing itself.
    """
    from mmengine.visualization import LocalVisBackend

    runner.visualizer.add_image(name, picture, step=runner.iter)
    for backend in runner.visualizer._vis_backends.values():
        if isinstance(backend, LocalVisBackend):
            path = Path(backend._img_save_dir) / f'{name}_{runner.iter}.png'
            if not path.is_file():
                raise OSError(f'{path} could not be written: is the disk full?')


def frames_of(record, frames: Sequence[np.ndarray], rank: int) -> Sequence[np.ndarray]:
    """The pictures that the first sample of a block consists of.

    Args:
        record (AttentionRecord): Of the block.
        frames (Sequence[np.ndarray]): From :func:`network_frames`.
        rank (int): Dimensions of the network's input; 4 means that pictures are
            samples or stacked frames of clips.
    """
    if rank == 5:
        return frames
    if len(record.grid) == 3:  # stacked frames that the block saw as clips
        return frames[: len(frames) // record.batch_size]
    return frames[:1]


def spectrum_picture(block: nn.Module, record, title: str) -> np.ndarray:
    """The spectrum of a block's graph under the gain of its filter."""
    spectrum = graph_spectrum(record.affinity)
    _, edges = spectrum.histogram()
    eigenvalues = torch.linspace(edges[0].item(), edges[-1].item(), 101)
    return draw_spectrum(
        spectrum, (eigenvalues, filter_response(block, eigenvalues)), title
    )


def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
