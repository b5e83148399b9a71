# Copyright (c) The nl_plugins authors. All rights reserved.
"""Whole runs: training, augmented testing, submissions, and clear refusals."""

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

import cv2  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmseg.registry import TRANSFORMS  # noqa: E402
from PIL import Image  # noqa: E402

from nl_plugins.segmentation.hooks import check_pair  # noqa: E402

CONFIG = 'configs/segmentation/snl/snl_r18-d16_1xb4-400_camvid-180x240.py'


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for split in ('train', 'val', 'test'):
        for kind in ('images', 'labels'):
            (tmp_path / 'data' / kind / split).mkdir(parents=True)
        for name in 'abcd':
            image = rng.integers(0, 256, (36, 48, 3), dtype=np.uint8)
            label = rng.integers(0, 12, (36, 48), dtype=np.uint8)
            cv2.imwrite(
                str(tmp_path / 'data' / 'images' / split / f'{name}.jpg'), image
            )
            cv2.imwrite(
                str(tmp_path / 'data' / 'labels' / split / f'{name}.png'), label
            )
    return tmp_path / 'data'


@pytest.fixture
def config(root, data, tmp_path, monkeypatch):
    """The CamVid config of SNL at 36 x 48 pixels, 2 iterations, on our data."""
    # Asking the machine for its compilers takes longer than all the rest.
    monkeypatch.setattr(Runner, '_log_env', lambda self, env_cfg: None)
    cfg = Config.fromfile(root / CONFIG)
    cfg.work_dir = str(tmp_path / 'work')
    cfg.log_level = 'ERROR'
    cfg.experiment_name = f'segmentation_{tmp_path.name}'
    cfg.model.data_preprocessor.size = (36, 48)
    for pipeline in (cfg.train_pipeline, cfg.test_pipeline):
        for step in pipeline:
            if 'scale' in step:
                step.scale = (48, 36)
            if 'crop_size' in step:
                step.crop_size = (36, 48)
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(data)
        loader.dataset.pipeline = (
            cfg.train_pipeline if name == 'train' else cfg.test_pipeline
        )
    cfg.val_dataloader.batch_size = cfg.test_dataloader.batch_size = 1
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 2
    return cfg


def write_label(data, split, name, label):
    assert cv2.imwrite(str(data / 'labels' / split / f'{name}.png'), label)


def checkpoints(cfg):
    from pathlib import Path

    return list(Path(cfg.work_dir).glob('*.pth'))


def test_a_sound_run_trains_and_validates(config):
    runner = Runner.from_cfg(config)
    runner.train()
    assert len(checkpoints(config)) == 1
    assert 0 <= runner.message_hub.get_scalar('val/mIoU').current() <= 100


def test_a_label_outside_the_classes(config, data):
    for name in 'abcd':
        write_label(data, 'train', name, np.full((36, 48), 23, np.uint8))
    with pytest.raises(
        ValueError, match=r'\.png holds the label values \[23\].*0\.\.10'
    ):
        Runner.from_cfg(config).train()
    assert not checkpoints(config)


def test_a_label_outside_the_classes_is_not_scored(config, data):
    write_label(data, 'test', 'c', np.full((36, 48), 12, np.uint8))
    with pytest.raises(ValueError, match=r'c\.png holds the label values \[12\]'):
        Runner.from_cfg(config).test()


@pytest.mark.parametrize('split', ['train', 'val'])
def test_label_and_image_of_different_size(config, data, split):
    write_label(data, split, 'b', np.zeros((18, 24), np.uint8))
    with pytest.raises(
        ValueError, match=r'b\.jpg has 48 x 36 pixels.*b\.png has 24 x 18'
    ):
        Runner.from_cfg(config).train()
    assert not checkpoints(config)


@pytest.mark.parametrize('run', ['train', 'test'])
def test_a_missing_label(config, data, run):
    (data / 'labels' / run / 'd.png').unlink()
    with pytest.raises(ValueError, match=r'd\.png does not exist.*data_prefix'):
        getattr(Runner.from_cfg(config), run)()
    assert not checkpoints(config)


def test_a_truncated_image(config, data):
    path = data / 'labels' / 'train' / 'a.png'
    path.write_bytes(path.read_bytes()[:6])
    with pytest.raises(ValueError, match=r'a\.png is truncated or not a readable'):
        Runner.from_cfg(config).train()


@pytest.mark.parametrize('kind', ['images', 'labels'])
@pytest.mark.parametrize('share', [0.0, 0.3, 0.9])
def test_a_file_cut_off_anywhere(config, data, kind, share):
    path = next((data / kind / 'train').glob('a.*'))
    noise = np.random.default_rng(0).integers(0, 11, (36, 48), dtype=np.uint8)
    assert cv2.imwrite(str(path), noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=f'{path.name} is truncated or not'):
        Runner.from_cfg(config).train()
    assert not checkpoints(config)


def test_damage_in_the_middle_is_found_by_decoding(config, data):
    path = data / 'labels' / 'train' / 'a.png'
    whole = bytearray(path.read_bytes())
    place = whole.index(b'IDAT') + 6
    whole[place : place + 8] = bytes(8)
    path.write_bytes(whole)
    config.custom_hooks = [dict(type='SegDataCheckHook', check_files='decode')]
    with pytest.raises(ValueError, match=r'a\.png is truncated or not a readable'):
        Runner.from_cfg(config).train()
    load = TRANSFORMS.build(dict(type='LoadAnnotations'))
    sample = dict(seg_map_path=str(path), seg_fields=[], reduce_zero_label=False)
    with pytest.raises(ValueError, match=r'a\.png cannot be read'):
        load(sample)


@pytest.mark.parametrize('mode', ['LA', 'RGB', 'RGBA'])
def test_label_maps_have_one_channel(config, data, mode):
    path = data / 'labels' / 'train' / 'a.png'
    Image.new(mode, (48, 36)).save(path)
    with pytest.raises(ValueError, match=r'a\.png has the channels'):
        Runner.from_cfg(config).train()
    load = TRANSFORMS.build(dict(type='LoadAnnotations'))  # without the hook, too
    sample = dict(seg_map_path=str(path), seg_fields=[], reduce_zero_label=False)
    with pytest.raises(ValueError, match=r'a\.png has \d channels'):
        load(sample)


@pytest.mark.parametrize('mode', ['L', 'P', 'I;16', '1'])
@pytest.mark.parametrize('size', [(1, 1), (1, 5), (5, 1), (5, 4)])
def test_label_maps_of_any_size_and_depth_keep_their_shape(tmp_path, mode, size):
    path = str(tmp_path / 'label.png')
    dtype = {'I;16': np.uint16, '1': bool}.get(mode, np.uint8)
    labels = (np.arange(size[0] * size[1]).reshape(size) % 2).astype(dtype)
    picture = Image.fromarray(labels)
    if mode == 'P':
        picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(path)
    check_pair(dict(img_path=path, seg_map_path=path), decode=True)
    load = TRANSFORMS.build(dict(type='LoadAnnotations'))
    sample = dict(seg_map_path=path, seg_fields=[], reduce_zero_label=False)
    loaded = load(sample | dict(img_shape=size))['gt_seg_map']
    assert loaded.shape == size and (loaded == labels).all()


def test_crops_larger_than_the_images_without_padding(config):
    config.model.data_preprocessor.update(size=None, size_divisor=1)
    for step in config.train_dataloader.dataset.pipeline:
        if 'crop_size' in step:
            step.crop_size = (72, 96)
    config.train_dataloader.batch_size = 4
    with pytest.raises(ValueError, match=r'crops of .*data_preprocessor\.size'):
        Runner.from_cfg(config).train()
    assert not checkpoints(config)


@pytest.fixture
def other_checkpoint(config, tmp_path):
    """Weights of the same network with 5 classes."""
    runner = Runner.from_cfg(config)
    state = runner.model.state_dict()
    for key in state:
        if 'conv_seg' in key:
            state[key] = torch.ones_like(state[key][:5])
    path = tmp_path / 'five_classes.pth'
    torch.save(dict(state_dict=state, meta={}), path)
    config.experiment_name += '_again'
    config.load_from = str(path)
    return config


def test_a_checkpoint_of_another_class_count_is_not_tested(other_checkpoint):
    with pytest.raises(ValueError, match=r'trained for 5 classes.*model has 11'):
        Runner.from_cfg(other_checkpoint).test()


def test_a_checkpoint_of_another_class_count_can_be_fine_tuned(other_checkpoint):
    runner = Runner.from_cfg(other_checkpoint)
    runner.train()
    assert len(checkpoints(other_checkpoint)) == 1


def test_test_time_augmentation_as_the_test_script_sets_it_up(config):
    config.tta_pipeline[1].transforms[0] = [
        dict(type='Resize', scale=scale, keep_ratio=True)
        for scale in ((48, 36), (64, 48))
    ]
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    config.tta_model.module = config.model
    config.model = config.tta_model
    metrics = Runner.from_cfg(config).test()
    assert 0 <= metrics['mIoU'] <= 100


def test_predictions_are_written_without_labels(config, data, tmp_path):
    # Upstream's format_only: a test set has no public labels.
    out = tmp_path / 'out'
    config.test_dataloader.dataset.pipeline = [
        step for step in config.test_pipeline if step.type != 'LoadAnnotations'
    ]
    config.test_dataloader.dataset.data_prefix = dict(img_path='images/test')
    config.test_evaluator.update(format_only=True, output_dir=str(out))
    Runner.from_cfg(config).test()
    assert sorted(path.name for path in out.iterdir()) == [f'{n}.png' for n in 'abcd']
    written = cv2.imread(str(out / 'a.png'), cv2.IMREAD_UNCHANGED)
    assert written.shape == (36, 48) and written.max() < 11


def test_cityscapes_submission(config, tmp_path):
    # Predictions in label ids instead of train ids, one PNG of the image's name each.
    labels = pytest.importorskip('cityscapesscripts.helpers.labels')
    city = tmp_path / 'cityscapes' / 'leftImg8bit' / 'test' / 'berlin'
    city.mkdir(parents=True)
    rng = np.random.default_rng(0)
    name = 'berlin_000000_000019_leftImg8bit'
    cv2.imwrite(str(city / f'{name}.png'), rng.integers(0, 256, (36, 48, 3), np.uint8))
    for head in ('decode_head', 'auxiliary_head'):
        config.model[head].num_classes = 19
    config.test_dataloader.dataset.update(
        type='CityscapesDataset',
        data_root=str(tmp_path / 'cityscapes'),
        data_prefix=dict(img_path='leftImg8bit/test'),
        pipeline=[
            step for step in config.test_pipeline if step.type != 'LoadAnnotations'
        ],
    )
    out = tmp_path / 'submission'
    config.test_evaluator = dict(
        type='CityscapesMetric',
        format_only=True,
        keep_results=True,
        output_dir=str(out),
    )
    Runner.from_cfg(config).test()
    written = np.asarray(Image.open(out / f'{name}.png'))
    known = {label.id for label in labels.labels if 0 <= label.trainId < 255}
    assert written.shape == (36, 48)
    assert set(np.unique(written).tolist()) <= known
