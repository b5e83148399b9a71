# Copyright (c) The nl_plugins authors. All rights reserved.
"""What the tool and the hook draw is where the block looks."""

import importlib.util
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

from nl_plugins.analysis.picture import (
    draw_attention,
    film_strip,
    network_frames,
    overlay,
    weight_bar,
)
from nl_plugins.analysis.record import AttentionRecord


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
    # 64 x 96, enlarged to 224 x 336; the bar is below.
    assert picture.shape[0] > 224 and picture.shape[1] == 336
    inside, outside = np.zeros((64, 96), bool), np.ones((64, 96), bool)
    inside[23:31, 39:47] = True
    outside[12:36, 28:52] = False
    inside, outside = (mask.repeat(3, 0).repeat(3, 1) for mask in (inside, outside))

    def small(picture):
        return cv2.resize(picture[:224], (288, 192), interpolation=cv2.INTER_AREA)

    hot = heat(small(picture))
    assert hot[inside].mean() > 100 > -40 > hot[outside].mean()
    ground = cv2.imread(str(tmp_path / files[0]))[..., ::-1]
    # The query on the ground looks at the ground.
    assert heat(small(ground))[outside].mean() > hot[outside].mean() + 60
    # The rings around the queries are white and black.
    row, column = (int((p + 0.5) * 3.5) for p in (18, 34))
    ring = picture[row - 9 : row + 10, column - 9 : column + 10].reshape(-1, 3)
    assert (ring.min(1) > 240).any() and (ring.max(1) < 15).any()


def test_a_clip_query_follows_the_square(main, colours, tmp_path):
    files = run(main, colours, 'clip', '.mp4', tmp_path, '--positions', '1,18,18')
    stem = 'clip_backbone.cells.0.nl_block_1_18_18'
    assert files == [f'{stem}.mp4', f'{stem}_strip.png']
    strip = cv2.imread(str(tmp_path / files[1]))[..., ::-1]
    assert strip.shape[0] > 224 and strip.shape[1] == 4 * 336
    video = cv2.VideoCapture(str(tmp_path / files[0]))
    frames = [video.read()[1][..., ::-1] for _ in range(4)]
    assert not video.read()[0]
    for index, frame in enumerate(np.split(strip, 4, axis=1)):
        start = 16 * index
        rows = slice(int(23 * 3.5), int(30 * 3.5))
        columns = slice(int((start + 8) * 3.5), int((start + 14) * 3.5))
        for picture in (frame, frames[index]):
            assert heat(picture)[rows, columns].mean() > 60
            assert heat(picture)[int(40 * 3.5) : 224].mean() < -40
    whole = frames[2].shape[0]
    assert (
        abs(frames[2].astype(int) - np.split(strip, 4, axis=1)[2][:whole]).mean() < 25
    )


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
    with pytest.raises(FileNotFoundError, match='input .* does not exist'):
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
    frames = [np.full((30, 50, 3), index, np.uint8) for index in range(32)]
    strip = film_strip(frames)
    assert strip.shape == (60, 200, 3)
    assert strip[29, 0, 0] == 0 and strip[59, -1, 0] == 31 and strip[59, 0, 0] == 18
    asked = film_strip(frames, 0.25)  # between the 4th and the 9th
    assert [asked[29, 50 * i, 0] for i in range(4)] == [0, 4, 8, 13]
    assert film_strip(frames[:6]).shape == (60, 200, 3)
    assert (film_strip(frames[:6])[30:, 100:] == 255).all()
    assert film_strip(frames[:3]).shape == (30, 150, 3)
    assert (strip[:20, :50] == 255).any()  # its number
    assert film_strip(frames[:1]) is frames[0]


def test_an_overlay_leaves_the_scene_and_tells_signs_apart():
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
    weights = np.zeros((20, 20))
    weights[:5], weights[5:10] = 1, -1
    drawn = overlay(scene, weights)
    for part in np.split(drawn[:10], 2), [drawn[10:]]:
        assert all(np.std(half, axis=(0, 1)).min() > 5 for half in part)  # not flat
    red, _, blue = drawn.astype(int).mean(axis=1).T
    assert (red[:5] > blue[:5] + 60).all() and (blue[5:10] > red[5:10] + 60).all()
    same = np.corrcoef(drawn[10:].ravel(), scene[10:].ravel())[0, 1]
    assert same > 0.9
    # More weight is more colour; beyond the end of the scale nothing changes.
    grey = np.full((1, 5, 3), 128, np.uint8)
    ramp = overlay(grey, np.array([[0, 0.3, 0.6, 1, 7]])).astype(int)
    warm = (ramp[0, :, 0] - 128).tolist()
    assert warm[:4] == sorted(set(warm[:4])) and warm[4] == warm[3]


@pytest.mark.parametrize('signed', [False, True])
def test_the_bar_names_its_ends(signed):
    bar = weight_bar(224, 0.0123, signed).astype(int)
    assert bar.shape[1] == 224 and (bar[:16] < 100).any(2).sum() > 100
    ramp = bar[25, 4:-4]
    assert ramp[-1, 0] > ramp[-1, 2] + 60
    assert (ramp[0, 2] > ramp[0, 0] + 60) == signed
    assert not np.array_equal(bar, weight_bar(224, 0.123, signed))


class Fixed:
    """An affinity of which only rows are asked for."""

    def __init__(self, matrix):
        self.matrix, self.shape = matrix[None], (1, *matrix.shape)

    def rows(self, index):
        return self.matrix[:, index]


def test_a_row_without_any_weight_and_a_signed_one():
    frame = [np.full((300, 400, 3), 100, np.uint8)]
    record = AttentionRecord(Fixed(torch.zeros(12, 12)), (3, 4))
    (nothing,) = draw_attention(record, frame, (0.9, 0.9))
    assert nothing.shape == (334, 400, 3) and (nothing[:100] == 80).all()
    matrix = torch.zeros(12, 12)
    matrix[0, 0], matrix[0, 11] = 1, -1
    record = AttentionRecord(Fixed(matrix), (3, 4))
    (drawn,) = draw_attention(record, frame, (0.3, 0.2), alpha=1)
    assert heat(drawn)[2, 2] > 100 and heat(drawn)[298, 398] < -100


@pytest.fixture
def model(colours):
    pytest.importorskip('mmpretrain')
    cfg = Config.fromfile(colours / 'image.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        with MODELS.switch_scope_and_registry(None) as registry:
            return registry.build(cfg.model).eval()


@pytest.fixture
def runner(model, tmp_path):
    """As much of a runner as the hook asks for, with mmengine's own backends."""
    backends = [dict(type='LocalVisBackend')]
    if importlib.util.find_spec('tensorboard'):
        backends.append(dict(type='TensorboardVisBackend'))
    visualizer = Visualizer(vis_backends=backends, save_dir=str(tmp_path))
    return SimpleNamespace(model=model, iter=7, visualizer=visualizer)


def written(folder):
    """What the backend of mmengine has written, by file name."""
    paths = sorted((folder / 'vis_data' / 'vis_image').glob('**/*.png'))
    return {path.name: cv2.imread(str(path))[..., ::-1] for path in paths}


def validate(runner, hook, batches=4):
    for index in range(batches):
        hook.before_val_iter(runner, index)
        runner.model.backbone(torch.randn(2, 3, 16, 24))
        hook.after_val_iter(runner, index)


LAYER = 'backbone.cells.0.nl_block'


def test_the_hook_draws_every_interval_into_every_backend(runner, tmp_path):
    positions = [(0.1, 0.1), (0.9, 0.5)]
    cfg = dict(type='NonLocalVisualizationHook', enable=True, interval=2)
    hook = HOOKS.build(dict(cfg, positions=positions, spectrum=True))
    validate(runner, hook)
    pictures = written(tmp_path)
    assert set(pictures) == {
        f'{kind}_val_{index}_{LAYER}_7.png'
        for index in (0, 2)
        for kind in ('attention', 'spectrum')
    }
    image = pictures[f'attention_val_2_{LAYER}_7.png']
    assert image.shape[0] > 224 and image.shape[1] == 2 * 336  # of 16 x 24
    block = runner.model.get_submodule(LAYER)
    assert not block._forward_pre_hooks
    assert not runner.model.backbone._forward_pre_hooks

    reader = pytest.importorskip(
        'tensorboard.backend.event_processing.event_accumulator'
    )
    runner.visualizer.close()
    events = reader.EventAccumulator(str(tmp_path / 'vis_data')).Reload()
    assert {f'{tag}_7.png' for tag in events.Tags()['images']} == set(pictures)
    (event,) = events.Images(f'attention_val_2_{LAYER}')
    encoded = np.frombuffer(event.encoded_image_string, np.uint8)
    assert event.step == 7
    assert (cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1] == image).all()


@pytest.mark.parametrize('frames', [1, 6])
def test_the_hook_draws_clips_one_strip_below_the_other(colours, tmp_path, frames):
    pytest.importorskip('mmaction')
    cfg = Config.fromfile(colours / 'clip.py')
    with DefaultScope.overwrite_default_scope('mmaction'):
        with MODELS.switch_scope_and_registry(None) as registry:
            model = registry.build(cfg.model).eval()
    backends = [dict(type='LocalVisBackend')]
    visualizer = Visualizer(vis_backends=backends, save_dir=str(tmp_path))
    runner = SimpleNamespace(model=model, iter=0, visualizer=visualizer)
    positions = [(0.1, 0.1), (0, 0.9, 0.5)]
    cfg = dict(type='NonLocalVisualizationHook', enable=True, positions=positions)
    hook = HOOKS.build(cfg)
    hook.before_test_iter(runner, 0)
    model.backbone(torch.randn(1, 3, frames, 16, 24))
    hook.after_test_iter(runner, 0)
    picture = written(tmp_path)[f'attention_test_0_{LAYER}_0.png']
    rows = 2 if frames > 1 else 1
    assert picture.shape[1] == (4 * 336 if frames > 1 else 2 * 336)
    assert picture.shape[0] > 224 * rows * rows


def test_a_picture_that_is_not_written_and_a_run_without_backends(
    runner, tmp_path, monkeypatch
):
    cfg = dict(type='NonLocalVisualizationHook', enable=True)
    monkeypatch.setattr('mmengine.visualization.vis_backend.cv2.imwrite', lambda *_: 0)
    with pytest.raises(OSError, match='attention_val_0_.* could not be written'):
        validate(runner, HOOKS.build(cfg))
    said = []
    runner.logger = SimpleNamespace(warning=said.append)
    HOOKS.build(cfg).before_run(runner)
    assert not said
    runner.visualizer = Visualizer()
    HOOKS.build(dict(cfg, enable=False)).before_run(runner)
    assert not said
    HOOKS.build(cfg).before_run(runner)
    assert 'LocalVisBackend' in said[0]


def test_the_hook_is_off_by_default_and_only_the_main_process_draws(
    runner, tmp_path, monkeypatch
):
    validate(runner, HOOKS.build(dict(type='NonLocalVisualizationHook')))
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


@pytest.mark.parametrize(
    'options', [dict(interval=0), dict(positions=[(1, 0.5)]), dict(positions=())]
)
def test_wrong_options_of_the_hook(options):
    with pytest.raises(ValueError, match='interval|positions'):
        HOOKS.build(dict(type='NonLocalVisualizationHook', **options))
