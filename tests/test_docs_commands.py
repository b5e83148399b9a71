# Copyright (c) The nl_plugins authors. All rights reserved.
"""The commands of the documentation, run as they stand there, on small data.

``test_docs.py`` reads every command with the parser of its own script. Here those run
that need no real data and no long schedule; the rest is in ``ELSEWHERE`` with the test
that runs its script, or with what it needs.
"""

import functools
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from loaders import in_process
from test_docs import BASH, CODEBASES, record, untrained

ROOT = Path(__file__).resolve().parents[1]
SEGMENTATION = f'configs/{CODEBASES["segmentation"]}'
I3D = 'configs/recognition/nl/i3d_r18-nl_1xb8-16x2x1-8e_mini-kinetics400-rgb.py'
# Page and begin of each command that runs here.
HERE = (
    ('docs/en/get_started.md', 'python tools/dataset_converters/make_mini_data.py'),
    ('docs/en/get_started.md', 'python tools/train.py'),
    ('docs/en/get_started.md', 'python tools/test.py'),
    ('docs/en/inference.md', 'python tools/visualization/vis_attention.py street'),
    ('docs/en/inference.md', 'python tools/deployment/export.py'),
    ('docs/en/model_zoo.md', 'python tools/analysis_tools/get_flops.py'),
    ('docs/en/model_zoo.md', 'python .dev_scripts/benchmark_regression/'),
    ('docs/en/places.md', 'python tools/analysis_tools/list_places.py'),
    ('docs/en/benchmarks.md', 'python tools/analysis_tools/benchmark.py blocks --bl'),
    ('docs/en/benchmarks.md', 'python tools/analysis_tools/benchmark.py model'),
    ('docs/en/recognition.md', 'python tools/visualization/vis_attention.py'),
)
# Begin of the other commands -> the test that runs the script, or what it needs.
ELSEWHERE = {
    r'pip |csCreateTrainIdLabelImgs': 'installs or comes from another package',
    r'bash (tools/run_tests.sh|\.ci/run)|pytest ': 'continuous integration',
    r'bash tools/quickstart.sh': 'test_tools/test_quickstart.py',
    r'bash tools/(dist|slurm)_': 'test_tools/test_train_test.py',
    # Cityscapes, CIFAR-10, CamVid, HMDB51, or minutes on the mini sets.
    r'python tools/(train|test).py': 'test_tools/test_train_test.py',
    r'python -m nl_plugins.doctor': 'test_doctor.py',
    r'python .dev_scripts/experiments/': 'test_experiments/test_experiments_run.py',
    r'python tools/analysis_tools/(query_dep|filters|receptive|temporal)': (
        'test_tools/test_trained_model_tools.py'
    ),
    r'python .dev_scripts/kill_runs.py': 'test_compat/test_whole_checkpoints.py',
    r'python .dev_scripts/random_gradients.py': 'hours',
    r'python .dev_scripts/exact_step_time.py': 'test_graph/test_exact_step_time.py',
    r'python tools/visualization/vis_attention.py --demo': 'test_tools/test_demo.py',
    r'python -m nl_plugins.run': 'test_tools/test_run.py',
    r'python tools/visualization/vis_attention.py': 'test_analysis/test_pictures.py',
    r'python tools/visualization/(attention_app|(idea|readme)_picture).py': (
        'test_tools/test_demo.py'
    ),
    r'python tools/visualization/benchmark_p': 'test_tools/test_benchmark_picture.py',
    r'python tools/visualization/compare_': 'test_tools/test_segmentation_tools.py',
    r'python tools/analysis_tools/full_': 'test_tools/test_segmentation_tools.py',
    r'python tools/analysis_tools/benchmark.py': 'test_tools/test_benchmark.py',
    r'python tools/analysis_tools/benchmark_clips.py': (
        'test_tools/test_benchmark_clips.py'
    ),
    r'python tools/analysis_tools/gpu_check.py': 'test_tools/test_gpu_check.py',
    r'python tools/analysis_tools/calibrate.py': 'test_tools/test_calibrate.py',
    r'python tools/analysis_tools/benchmark_stock.py': (
        'test_tools/test_benchmark_stock.py'
    ),
    r'python tools/analysis_tools/memory_': 'test_tools/test_memory_growth.py',
    r'python tools/analysis_tools/fuse_': 'test_recognition/test_fuse_scores.py',
    r'python tools/dataset_converters/(cifar|camvid)': (
        'test_tools/test_dataset_converters.py'
    ),
    r'python tools/dataset_converters/make_mini_data.py': (
        'test_tools/test_dataset_converters_mini.py'
    ),
    r'python tools/dataset_converters/video_': 'test_recognition/test_data.py',
    r'python tools/model_converters/classification_': (
        'test_tools/test_model_converters_classification.py'
    ),
    r'python tools/model_converters/snl_': (
        'test_tools/test_model_converters_segmentation.py'
    ),
    r'python tools/model_converters/': (
        'test_tools/test_model_converters_recognition.py'
    ),
    # The model of every config, by .dev_scripts/metafiles.py --check.
    r'python tools/analysis_tools/get_flops.py': 'test_zoo/test_metafiles.py',
    # A minute or two for all of them.
    r'python .dev_scripts/stock_backbones.py': 'test_attach/test_every_backbone.py',
    r'python .dev_scripts/metafiles.py': 'test_zoo/test_metafiles.py',
    r'mim run mmpretrain analyze_logs': 'test_zoo/test_upstream_scripts.py',
    r'mim ': 'test_tools/test_mim.py',
}
# By script: words that are replaced, and words that follow.
SMALLER = {
    'make_mini_data.py': ({}, ['--cifar10', '32', '8']),
    'train.py': ({}, ['train_cfg.val_interval=8', *in_process('train', 'val')]),
    'benchmark.py': ({'1,3,512,1024': '1,3,32,64'}, ['--seconds', '0.01']),
}


@functools.cache
def commands_of(page: str, folder: Path) -> list[list[str]]:
    """The commands of a page, expanded, each once."""
    found = []
    for block in BASH:
        if block.page != page or block.mark:  # test_docs.py knows the marked ones
            continue
        place = folder / page / str(block.line)
        place.mkdir(parents=True)
        found += [words for words in record(block, place) if words not in found]
    return found


def chosen(page: str, begin: str, folder: Path) -> list[list[str]]:
    """The commands of a page that begin so."""
    found = [
        words
        for words in commands_of(page, folder)
        if ' '.join(words).startswith(begin)
    ]
    assert found, f'{page} has no command {begin} any more'
    return found


@pytest.fixture(scope='module')
def recorded(tmp_path_factory):
    return tmp_path_factory.mktemp('recorded')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder like a checkout, without data."""
    pytest.importorskip('mmengine')
    folder = tmp_path_factory.mktemp('checkout')
    for name in ('configs', 'demo', 'docs', 'tools', '.dev_scripts', 'model-index.yml'):
        (folder / name).symlink_to(ROOT / name)
    return folder


def smaller(words: list[str]) -> list[str]:
    """A command with less to do."""
    replaced, added = SMALLER.get(Path(words[1]).name, ({}, []))
    if added and '=' in added[0] and '--cfg-options' not in words:
        added = ['--cfg-options', *added]
    return [replaced.get(word, word) for word in words] + added


def run_here(monkeypatch, place: Path, words: list[str]) -> None:
    """Run a script in this process."""
    words = smaller(words)
    with monkeypatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, 'argv', words[1:])
        patch.setattr(sys, 'path', [str((ROOT / words[1]).parent), *sys.path])
        patch.setenv('MPLBACKEND', 'Agg')
        try:
            runpy.run_path(str(ROOT / words[1]), run_name='__main__')
        except SystemExit as stop:
            assert not stop.code, f'{words}: {stop.code}'


def run_alone(place: Path, words: list[str]) -> str:
    """Run a command in a process of its own; what it prints."""
    result = subprocess.run(
        [sys.executable, *smaller(words)[1:]],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, f'{words}: {result.stdout[-4000:]}'
    return result.stdout


def test_no_command_is_forgotten(recorded):
    for page in sorted({block.page for block in BASH}):
        begins = [begin for name, begin in HERE if name == page]
        for words in commands_of(page, recorded):
            line = ' '.join(words)
            if any(line.startswith(begin) for begin in begins):
                continue
            reasons = [
                reason for begin, reason in ELSEWHERE.items() if re.match(begin, line)
            ]
            assert reasons, f'{page}: {line} is run nowhere'
            for reason in reasons:
                test = ROOT / 'tests' / reason
                assert not reason.startswith('test_') or test.is_file()


def test_first_run(place, recorded):
    """Mini data, a training and a test, and another block in bf16."""
    pytest.importorskip('mmpretrain')
    page = 'docs/en/get_started.md'
    (data,) = chosen(page, HERE[0][1], recorded)
    assert 'cifar10: 40 samples in data/mini/cifar10' in run_alone(place, data)
    for words in chosen(page, HERE[1][1], recorded):
        run_alone(place, words)
    (test,) = chosen(page, HERE[2][1], recorded)
    assert 'accuracy/top1' in run_alone(place, test)
    assert (place / 'work_dirs' / 'ns' / 'epoch_8.pth').is_file()


def test_attention_and_export(place, recorded, monkeypatch, capsys):
    for package in ('mmpretrain', 'mmseg', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(package)
    import cv2
    import numpy as np

    page = 'docs/en/inference.md'
    monkeypatch.chdir(place)
    cv2.imwrite('street.png', np.full((128, 256, 3), 90, np.uint8))
    networks = [SEGMENTATION, f'configs/{CODEBASES["classification"]}']
    for number, config in enumerate(networks):
        untrained(config, f'work_dirs/untrained/{number}/epoch.pth')
    (words,) = chosen(page, HERE[3][1], recorded)
    names = dict(CONFIG=networks[0], CHECKPOINT='work_dirs/untrained/0/epoch.pth')
    run_here(monkeypatch, place, [names.get(word, word) for word in words])
    assert list((place / 'work_dirs' / 'attention').glob('*.png'))
    names = dict(CONFIG=networks[1], CHECKPOINT='work_dirs/untrained/1/epoch.pth')
    for words in chosen(page, HERE[4][1], recorded):
        run_here(monkeypatch, place, [names.get(word, word) for word in words])
    files = {path.name for path in (place / 'work_dirs' / 'export').iterdir()}
    assert files == {'net.onnx', 'SNLBlock.pt2'}


def test_the_scripts_of_the_zoo(place, recorded, monkeypatch, capsys):
    for package in ('mmpretrain', 'mmseg', 'modelindex'):
        pytest.importorskip(package)
    page = 'docs/en/model_zoo.md'
    monkeypatch.chdir(place)
    untrained(SEGMENTATION, f'work_dirs/{Path(SEGMENTATION).stem}.pth')
    for words in chosen(page, HERE[5][1], recorded):
        run_here(monkeypatch, place, words)
    assert 'nl_block' in capsys.readouterr().out
    scripts = chosen(page, HERE[6][1], recorded)
    assert len(scripts) == 5
    for words in scripts:
        run_here(monkeypatch, place, words)


def test_benchmarks(place, recorded, monkeypatch, capsys):
    pytest.importorskip('mmpretrain')
    page = 'docs/en/benchmarks.md'
    config = f'configs/{CODEBASES["classification"]}'
    for _, begin in (pair for pair in HERE if pair[0] == page):
        for words in chosen(page, begin, recorded):
            words = [config if word == 'CONFIG' else word for word in words]
            run_here(monkeypatch, place, words)
            assert '|---|' in capsys.readouterr().out


def test_attention_in_a_video(place, recorded, monkeypatch):
    for package in ('mmaction', 'decord'):
        pytest.importorskip(package)
    monkeypatch.chdir(place)
    (words,) = chosen('docs/en/recognition.md', HERE[-1][1], recorded)
    tool = 'tools/dataset_converters/make_mini_data.py'
    data = ['python', tool, '--only', 'kinetics400', '--kinetics400', '8', '4']
    run_here(monkeypatch, place, data)
    untrained(I3D, words[4])
    run_here(monkeypatch, place, words)
    assert list((place / 'work_dirs' / 'attention').glob('*.mp4'))
