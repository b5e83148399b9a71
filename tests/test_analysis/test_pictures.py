# Copyright (c) The nl_plugins authors. All rights reserved.
"""What the tool and the hook draw is where the block looks."""

import runpy
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS
from mmengine.registry.default_scope import DefaultScope

from nl_plugins.analysis.picture import film_strip, network_frames


@pytest.fixture(autouse=True)
def leave_no_trace(colours, monkeypatch):
    """The backbone can be imported; the scope that the tool sets does not stay."""
    monkeypatch.syspath_prepend(str(colours))
    scopes = DefaultScope._instance_dict.copy()
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)


@pytest.fixture(scope='module')
def tool(root):
    return runpy.run_path(str(root / 'tools' / 'visualization' / 'vis_attention.py'))


@pytest.fixture(scope='module')
def main(tool):
    return tool['main']


def run(main, colours, name, suffix, out, *options):
    pytest.importorskip('mmpretrain' if name == 'image' else 'mmaction')
    paths = [
        colours / f'{name}{suffix}',
        colours / f'{name}.py',
        colours / f'{name}.pth',
    ]
    main([*map(str, paths), '--out', str(out), *options])
    return sorted(path.name for path in out.iterdir())


def heat(picture):
    """Red minus blue: positive where the overlay is hot (picture is RGB)."""
    return picture[..., 0].astype(int) - picture[..., 2].astype(int)


def test_an_image_query_on_the_square_lights_the_square(main, colours, tmp_path):
    layer = 'backbone.cells.0.nl_block'
    options = ['--layer', layer, '--positions', '18,34', '0.9,0.1', '--alpha', '0.7']
    files = run(main, colours, 'image', '.png', tmp_path, *options)
    assert files == [f'image_{layer}_0.9_0.1.png', f'image_{layer}_18_34.png']
    picture = cv2.imread(str(tmp_path / files[1]))[..., ::-1]
    assert picture.shape == (64, 96, 3)
    inside, outside = np.zeros((64, 96), bool), np.ones((64, 96), bool)
    inside[23:31, 39:47] = True
    outside[12:36, 28:52] = False
    assert heat(picture)[inside].mean() > 60 > -60 > heat(picture)[outside].mean()
    ground = cv2.imread(str(tmp_path / files[0]))[..., ::-1]
    # The query on the ground looks at the ground.
    assert heat(ground)[outside].mean() > heat(picture)[outside].mean() + 60
    # The rings around the queries are white and black.
    ring = picture[18 - 5 : 18 + 6, 34 - 5 : 34 + 6].reshape(-1, 3)
    assert (ring.min(1) > 240).any() and (ring.max(1) < 15).any()


def test_a_clip_query_follows_the_square(main, colours, tmp_path):
    files = run(main, colours, 'clip', '.mp4', tmp_path, '--positions', '1,18,18')
    stem = 'clip_backbone.cells.0.nl_block_1_18_18'
    assert files == [f'{stem}.mp4', f'{stem}_strip.png']
    strip = cv2.imread(str(tmp_path / files[1]))[..., ::-1]
    assert strip.shape == (64, 4 * 96, 3)
    video = cv2.VideoCapture(str(tmp_path / files[0]))
    frames = [video.read()[1][..., ::-1] for _ in range(4)]
    assert not video.read()[0]
    for index, frame in enumerate(np.split(strip, 4, axis=1)):
        start = 16 * index
        rows, columns = slice(23, 30), slice(start + 8, start + 14)
        for picture in (frame, frames[index]):
            assert heat(picture)[rows, columns].mean() > 30
            assert heat(picture)[40:].mean() < -30
    assert abs(frames[2].astype(int) - np.split(strip, 4, axis=1)[2]).mean() < 25


def test_the_spectrum_is_drawn_too(main, colours, tmp_path):
    files = run(main, colours, 'image', '.png', tmp_path, '--spectrum')
    assert len(files) == 2 and files[1].endswith('_spectrum.png')
    picture = cv2.imread(str(tmp_path / files[1])).astype(int)
    assert (picture[..., 0] - picture[..., 2] > 60).sum() > 300  # the bars are blue


@pytest.mark.parametrize(
    'options, error',
    [
        (['--positions', '1'], 'must be y,x or t,y,x'),
        (['--positions', '64,0'], 'inside 1 frame'),
        (['--layer', 'backbone.nothing'], 'holds no non-local block'),
    ],
)
def test_mistakes_on_the_command_line(main, colours, tmp_path, options, error):
    with pytest.raises(ValueError, match=error):
        run(main, colours, 'image', '.png', tmp_path, *options)
    assert not list(tmp_path.iterdir())


def test_pipelines_of_raw_frames_read_videos(tool):
    sample = dict(type='SampleFrames', clip_len=1)
    raw = [sample, dict(type='RawFrameDecode', decoding_backend='cv2')]
    video = [dict(type='OpenCVInit'), sample, dict(type='OpenCVDecode')]
    assert tool['video_pipeline'](raw) == video
    assert tool['video_pipeline'](video) == video
    assert raw[1]['type'] == 'RawFrameDecode'


def test_a_missing_file(main, colours, tmp_path):
    with pytest.raises(SystemExit, match='input .* does not exist'):
        main(['nothing.png', str(colours / 'image.py'), 'x.pth'])


def test_frames_have_their_normalisation_taken_back():
    preprocessor = SimpleNamespace(
        mean=torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1),
        std=torch.tensor([2.0, 4.0, 8.0]).view(3, 1, 1),
    )
    model = SimpleNamespace(data_preprocessor=preprocessor)
    x = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    (first, _) = network_frames(model, x)
    assert first.shape == (4, 5, 3) and first[0, 0].tolist() == [54, 28, 12]  # BGR
    preprocessor.to_rgb = True
    assert network_frames(model, x)[0][0, 0].tolist() == [12, 28, 54]
    clip = network_frames(model, torch.zeros(2, 3, 6, 4, 5))
    assert len(clip) == 6


def test_a_film_strip_has_at_most_eight_frames():
    frames = [np.full((2, 3, 3), index, np.uint8) for index in range(32)]
    strip = film_strip(frames)
    assert strip.shape == (2, 24, 3) and strip[0, 0, 0] == 0 and strip[0, -1, 0] == 31


class Runner:
    """As much of a runner as the hook asks for."""

    def __init__(self, model):
        self.model, self.iter, self.drawn = model, 7, {}
        self.visualizer = SimpleNamespace(add_image=self.add_image)

    def add_image(self, name, image, step):
        self.drawn[name] = (image, step)


@pytest.fixture
def runner(colours):
    pytest.importorskip('mmpretrain')
    cfg = Config.fromfile(colours / 'image.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        with MODELS.switch_scope_and_registry(None) as registry:
            return Runner(registry.build(cfg.model).eval())


def validate(runner, hook, batches=4):
    for index in range(batches):
        hook.before_val_iter(runner, index)
        runner.model.backbone(torch.randn(2, 3, 16, 24))
        hook.after_val_iter(runner, index)


def test_the_hook_draws_every_interval(runner):
    positions = [(0.1, 0.1), (0.9, 0.5)]
    cfg = dict(type='NonLocalVisualizationHook', enable=True, interval=2)
    hook = HOOKS.build(dict(cfg, positions=positions, spectrum=True))
    validate(runner, hook)
    layer = 'backbone.cells.0.nl_block'
    assert list(runner.drawn) == [
        f'{kind}/val_{index}/{layer}'
        for index in (0, 2)
        for kind in ('attention', 'spectrum')
    ]
    image, step = runner.drawn[f'attention/val_2/{layer}']
    assert image.shape == (16, 48, 3) and image.dtype == np.uint8 and step == 7
    block = runner.model.get_submodule(layer)
    assert not block._forward_pre_hooks
    assert not runner.model.backbone._forward_pre_hooks


def test_the_hook_is_off_by_default_and_only_the_main_process_draws(
    runner, monkeypatch
):
    validate(runner, HOOKS.build(dict(type='NonLocalVisualizationHook')))
    assert not runner.drawn
    monkeypatch.setattr('nl_plugins.analysis.hook.is_main_process', lambda: False)
    cfg = dict(type='NonLocalVisualizationHook', enable=True, interval=1)
    validate(runner, HOOKS.build(cfg))
    assert not runner.drawn


def test_an_interrupted_batch_leaves_no_hook(runner):
    hook = HOOKS.build(dict(type='NonLocalVisualizationHook', enable=True))
    hook.before_val_iter(runner, 0)
    assert runner.model.backbone._forward_pre_hooks
    hook.after_run(runner)
    assert not runner.model.backbone._forward_pre_hooks


@pytest.mark.parametrize('options', [dict(interval=0), dict(positions=[(1, 0.5)])])
def test_wrong_options_of_the_hook(options):
    with pytest.raises(ValueError, match='interval|positions'):
        HOOKS.build(dict(type='NonLocalVisualizationHook', **options))
