# Copyright (c) The nl_plugins authors. All rights reserved.
"""What the tool and the hook draw is where the block looks."""

import logging
import runpy
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS
from mmengine.registry.default_scope import DefaultScope
from mmengine.visualization import Visualizer

from nl_plugins.analysis import AttentionRecord
from nl_plugins.analysis.picture import draw_attention, film_strip, network_frames
from nl_plugins.graph import DotAffinity


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
    options = ['--layer', layer, '--positions', '18,34', '0.9,0.1']
    files = run(main, colours, 'image', '.png', tmp_path, *options)
    assert files == [f'image_{layer}_0.9_0.1.png', f'image_{layer}_18_34.png']
    picture = cv2.imread(str(tmp_path / files[1]))[..., ::-1]
    assert picture.shape == (4 * 64 + 26, 4 * 96, 3)  # enlarged, and its scale
    inside, outside = np.zeros((2, 64 * 4, 96 * 4), bool)
    inside[23 * 4 : 31 * 4, 39 * 4 : 47 * 4] = True
    outside[:] = True
    outside[12 * 4 : 36 * 4, 28 * 4 : 52 * 4] = False
    picture, scale = picture[: 64 * 4], picture[64 * 4 :]
    assert heat(picture)[inside].mean() > 60 > -60 > heat(picture)[outside].mean()
    ground = cv2.imread(str(tmp_path / files[0]))[: 64 * 4, :, ::-1]
    # The query on the ground looks at the ground.
    assert heat(ground)[outside].mean() > heat(picture)[outside].mean() + 60
    # The rings around the queries are white and black.
    y, x = 18 * 4 + 2, 34 * 4 + 2
    ring = picture[y - 12 : y + 13, x - 12 : x + 13].reshape(-1, 3)
    assert (ring.min(1) > 240).any() and (ring.max(1) < 15).any()
    # The scale goes from grey to orange, between two numbers.
    ramp = heat(scale)[13]
    assert ramp.max() > 150 and (scale.max(2) < 100).sum() > 50


def test_negative_weights_are_blue_and_a_row_of_one_weight_is_left_plain():
    frame = np.full((240, 240, 3), 100, np.uint8)
    weights = torch.tensor([-1.0, 0.0, 0.0, 2.0])
    for row, colours_of in ((weights, [-60, 0, 0, 120]), (torch.ones(4), [0] * 4)):
        graph = DotAffinity(torch.ones(1, 4, 1), row.view(1, 4, 1))
        record = AttentionRecord(graph, (2, 2))
        overlay = draw_attention(record, [frame], (0.4, 0.4))
        assert overlay.low < 0 or overlay.low == overlay.high
        corners = heat(overlay.pictures[0])[::239, ::239].ravel()
        for found, expected in zip(corners, colours_of):
            assert np.sign(round(found / 10)) == np.sign(expected)


def test_a_clip_query_follows_the_square(main, colours, tmp_path):
    files = run(main, colours, 'clip', '.mp4', tmp_path, '--positions', '1,18,18')
    stem = 'clip_backbone.cells.0.nl_block_1_18_18'
    assert files == [f'{stem}.mp4', f'{stem}_strip.png']
    strip = cv2.imread(str(tmp_path / files[1]))[: 64 * 4, :, ::-1]
    assert strip.shape == (64 * 4, 4 * 4 * 96, 3)
    video = cv2.VideoCapture(str(tmp_path / files[0]))
    frames = [video.read()[1][: 64 * 4, :, ::-1] for _ in range(4)]
    assert not video.read()[0]
    for index, frame in enumerate(np.split(strip, 4, axis=1)):
        start = 16 * index
        rows, columns = slice(23 * 4, 30 * 4), slice(4 * start + 32, 4 * start + 56)
        for picture in (frame, frames[index]):
            assert heat(picture)[rows, columns].mean() > 30
            assert heat(picture)[160:].mean() < -30
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


def test_a_film_strip_has_at_most_eight_frames_in_rows_of_four():
    frames = [np.full((30, 90, 3), 5 * index, np.uint8) for index in range(32)]
    strip = film_strip(frames)
    assert strip.shape == (60, 360, 3) and strip[-1, -1, 0] == 5 * 31
    assert film_strip(frames[:5]).shape == (60, 360, 3)
    assert film_strip(frames[:1]).shape == (30, 90, 3)


@pytest.fixture
def runner(colours, tmp_path):
    """As much of a runner as the hook asks for, with mmengine's own visualiser."""
    pytest.importorskip('mmpretrain')
    cfg = Config.fromfile(colours / 'image.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        with MODELS.switch_scope_and_registry(None) as registry:
            model = registry.build(cfg.model).eval()
    return runner_of(model, tmp_path, [dict(type='LocalVisBackend')])


def runner_of(model, folder, backends):
    visualizer = Visualizer(vis_backends=backends, save_dir=str(folder))
    return SimpleNamespace(
        model=model, iter=7, visualizer=visualizer, logger=logging.getLogger('hook')
    )


def validate(runner, hook, batches=4):
    hook.before_run(runner)
    for index in range(batches):
        hook.before_val_iter(runner, index)
        runner.model.backbone(torch.randn(2, 3, 16, 24))
        hook.after_val_iter(runner, index)


def written(folder):
    return {path.name: path for path in folder.rglob('*.png')}


def test_the_hook_writes_files_every_interval(runner, tmp_path):
    positions = [(0.1, 0.1), (0.9, 0.5)]
    cfg = dict(type='NonLocalVisualizationHook', enable=True, interval=2)
    hook = HOOKS.build(dict(cfg, positions=positions, spectrum=True))
    validate(runner, hook)
    layer = 'backbone.cells.0.nl_block'
    files = written(tmp_path)
    assert set(files) == {
        f'{kind}_val_{index}_{layer}_7.png'
        for index in (0, 2)
        for kind in ('attention', 'spectrum')
    }
    image = cv2.imread(str(files[f'attention_val_2_{layer}_7.png']))
    assert image.shape == (14 * 16 + 26, 2 * 14 * 24, 3)
    block = runner.model.get_submodule(layer)
    assert not block._forward_pre_hooks
    assert not runner.model.backbone._forward_pre_hooks


def test_the_hook_writes_to_tensorboard(runner, tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backends = [dict(type='TensorboardVisBackend'), dict(type='LocalVisBackend')]
    runner = runner_of(runner.model, tmp_path / 'both', backends)
    validate(runner, HOOKS.build(dict(type='NonLocalVisualizationHook', enable=True)))
    runner.visualizer.close()
    (log,) = (tmp_path / 'both').rglob('events*')
    events = EventAccumulator(str(log)).Reload()
    tag = 'attention_val_0_backbone.cells.0.nl_block'
    assert events.Tags()['images'] == [tag]
    (image,) = events.Images(tag)
    assert (image.height, image.width, image.step) == (14 * 16 + 26, 14 * 24, 7)
    assert list(written(tmp_path / 'both')) == [f'{tag}_7.png']


def test_the_hook_says_what_is_not_written(runner, tmp_path, caplog, monkeypatch):
    hook = HOOKS.build(dict(type='NonLocalVisualizationHook', enable=True))
    validate(runner, hook)
    assert not caplog.records
    with monkeypatch.context() as patch:  # what OpenCV does on a full disk
        patch.setattr(cv2, 'imwrite', lambda *args: False)
        validate(runner, hook)
    assert 'backbone.cells.0.nl_block_7.png could not be written' in caplog.text
    caplog.clear()
    validate(runner_of(runner.model, tmp_path, None), hook)
    assert "vis_backends=[dict(type='LocalVisBackend')]" in caplog.text


def test_the_hook_is_off_by_default_and_only_the_main_process_draws(
    runner, tmp_path, monkeypatch
):
    validate(runner, HOOKS.build(dict(type='NonLocalVisualizationHook')))
    assert not written(tmp_path)
    monkeypatch.setattr('nl_plugins.analysis.hook.is_main_process', lambda: False)
    cfg = dict(type='NonLocalVisualizationHook', enable=True, interval=1)
    validate(runner, HOOKS.build(cfg))
    assert not written(tmp_path)


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
