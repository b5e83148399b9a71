# Copyright (c) The nl_plugins authors. All rights reserved.
"""Repairs of what the codebases' scripts call: mended where broken, else as it was."""

from types import SimpleNamespace

import numpy as np
import pytest

from nl_plugins.compat import (
    adjusted_box,
    grad_cam_device,
    picture_layout,
    tsne_iterations,
    visualizer_scope,
)


class Recorder:
    def __init__(self, *args, **kwargs):
        self.given = args, kwargs


def fresh() -> type:
    return type('Fresh', (Recorder,), {'__init__': Recorder.__init__})


def test_a_scope_is_not_an_option_of_the_visualizer():
    module = SimpleNamespace(UniversalVisualizer=fresh())
    visualizer_scope.apply(module)
    made = module.UniversalVisualizer(1, _scope_='mmpretrain', name='x')
    assert made.given == ((1,), dict(name='x'))


def test_a_transposed_picture_is_drawn_into():
    pytest.importorskip('mmseg')
    import torch
    from mmengine.structures import PixelData
    from mmseg.visualization import SegLocalVisualizer, local_visualizer

    picture_layout.apply(local_visualizer)
    image = np.zeros((3, 32, 48), np.uint8).transpose(1, 2, 0)
    assert not image.flags.c_contiguous
    regions = PixelData(data=torch.zeros(1, 32, 48, dtype=torch.long))
    draw = SegLocalVisualizer(alpha=1)._draw_sem_seg
    drawn = draw(image, regions, ['road'], [[10, 200, 30]])
    assert drawn.shape == image.shape and drawn[-1, -1].tolist() == [10, 200, 30]


@pytest.mark.parametrize('version, broken', [((1, 5, 7), True), ((1, 4, 8), False)])
def test_grad_cam_without_use_cuda(monkeypatch, version, broken):
    monkeypatch.setattr(grad_cam_device, 'version_of', lambda name: version)
    assert grad_cam_device.needed() is broken
    module = SimpleNamespace(GradCAM=fresh(), function=print)
    grad_cam_device.apply(module)
    assert module.GradCAM('net', use_cuda=False).given == (('net',), {})


@pytest.mark.parametrize('version, broken', [((1, 9, 1), True), ((1, 6), False)])
def test_tsne_by_its_old_option(monkeypatch, version, broken):
    monkeypatch.setattr(tsne_iterations, 'version_of', lambda name: version)
    assert tsne_iterations.needed() is broken
    module = SimpleNamespace(TSNE=fresh())
    tsne_iterations.apply(module)
    assert module.TSNE(2, n_iter=300).given == ((2,), dict(max_iter=300))
    assert module.TSNE(2).given == ((2,), {})


def test_a_box_is_adjusted_without_a_renderer():
    pytest.importorskip('matplotlib')
    figure = SimpleNamespace(canvas=SimpleNamespace(get_renderer=lambda: 'renderer'))

    def wants_one(fig, bbox_inches, renderer, fixed_dpi=None):
        return fig, bbox_inches, renderer

    module = SimpleNamespace(adjust_bbox=wants_one)
    adjusted_box.apply(module)
    assert module.adjust_bbox(figure, 'box') == (figure, 'box', 'renderer')
    assert module.adjust_bbox(figure, 'box', 'own')[2] == 'own'

    def wants_none(fig, bbox_inches, fixed_dpi=None):
        return fig

    module = SimpleNamespace(adjust_bbox=wants_none)
    adjusted_box.apply(module)
    assert module.adjust_bbox is wants_none
