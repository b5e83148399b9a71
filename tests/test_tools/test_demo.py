# Copyright (c) The nl_plugins authors. All rights reserved.
"""What demo/ holds works as it is: network, picture, notebook, and their tools."""

import importlib
import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry.default_scope import DefaultScope

import nl_plugins  # noqa: F401  its repairs come before mmseg

pytest.importorskip('mmseg')
ROAD, SKY = 3, 0


@pytest.fixture
def tools(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'tools' / 'visualization'))
    return importlib.import_module


def test_the_checkpoint_is_small_and_is_read_as_weights_alone(root):
    path = root / 'demo' / 'snl_camvid.pth'
    assert path.stat().st_size < 3_000_000
    content = torch.load(path, map_location='cpu', weights_only=True)
    state = content['state_dict']
    floats = {v.dtype for v in state.values() if v.is_floating_point()}
    assert floats == {torch.float16}
    assert (root / 'demo' / 'street.jpg').stat().st_size < 100_000


def test_the_network_knows_a_street(root):
    from mmseg.apis import inference_model, init_model

    config, weights, street = (
        str(root / 'demo' / name)
        for name in ('snl_camvid.py', 'snl_camvid.pth', 'street.jpg')
    )
    model = init_model(config, weights, 'cpu')
    state = torch.load(weights, map_location='cpu', weights_only=True)['state_dict']
    assert set(model.state_dict()) == set(state)  # no key is left over or missing
    found = inference_model(model, street).pred_sem_seg.data[0].numpy()
    assert found.shape == (360, 480)
    assert (found[240:, 120:360] == ROAD).mean() > 0.9
    assert (found[:60, 160:320] == SKY).mean() > 0.6


def test_attention_of_the_demo(tools, tmp_path, capsys):
    tools('vis_attention').main(['--demo', '--out', str(tmp_path), '--spectrum'])
    names = {path.name for path in tmp_path.iterdir()}
    block = 'street_decode_head.nl_block'
    assert names == {
        f'{block}_0.85_0.5.png',
        f'{block}_0.58_0.22.png',
        f'{block}_spectrum.png',
    }
    road = cv2.imread(str(tmp_path / f'{block}_0.85_0.5.png')).astype(int)
    assert road.shape[0] > 224
    warm = road[:224, :, 2] - road[:224, :, 0]
    assert warm[170:].mean() > warm[60:120].mean() + 20  # it looks at the road


def test_the_page_of_the_demo(tools, tmp_path):
    out = tmp_path / 'page.html'
    assert tools('attention_app').main(['--demo', '--out', str(out)]) == 0
    assert 50_000 < out.stat().st_size < 5_000_000


@pytest.mark.parametrize('name', ['vis_attention', 'attention_app'])
@pytest.mark.parametrize(
    'arguments, error',
    [
        ([], 'give .*input.*, or --demo'),
        (['--demo', 'street.png'], 'brings its own input, config and checkpoint'),
    ],
)
def test_demo_or_files(tools, capsys, name, arguments, error):
    with pytest.raises(SystemExit, match='2'):
        tools(name).main(arguments)
    assert re.search(error, capsys.readouterr().err)


def test_the_notebook(root, monkeypatch):
    """Its code, cell by cell in one namespace, as a notebook runs it."""
    plt = pytest.importorskip('matplotlib.pyplot')
    scopes = DefaultScope._instance_dict.copy()
    plt.switch_backend('Agg')
    monkeypatch.chdir(root)
    path = root / 'demo' / 'nl_plugins_tour.ipynb'
    notebook = json.loads(path.read_text(encoding='utf-8'))
    assert notebook['nbformat'] == 4
    cells = notebook['cells']
    assert len({cell['id'] for cell in cells}) == len(cells)
    found = {'__name__': '__main__'}
    try:
        for number, cell in enumerate(cells):
            if cell['cell_type'] == 'code':
                assert not cell['outputs']
                exec(compile(''.join(cell['source']), f'cell {number}', 'exec'), found)
        assert len(plt.get_fignums()) == 4
    finally:
        plt.close('all')
        DefaultScope._instance_dict.clear()
        DefaultScope._instance_dict.update(scopes)
    # What its text says.
    assert found['same'] and found['identity']
    ours, dense = found['memory']['ours'], found['memory']['dense']
    assert dense[-1] > 20 * ours[-1]
    linear, square = (values[-1] / values[0] for values in (ours, dense))
    assert linear < 20 < 100 < square  # of 16 times the positions
    assert found['spectrum'].values.max() == pytest.approx(1, abs=1e-3)


def test_the_picture_of_the_readme(tools, tmp_path):
    out = tmp_path / 'picture.jpg'
    tools('readme_picture').main(['--out', str(out)])
    assert [path.name for path in tmp_path.iterdir()] == ['picture.jpg']
    picture = cv2.imread(str(out))
    assert picture.shape[1] > 1000 and picture.shape[0] > 250
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000


def test_the_picture_of_the_idea(tools, tmp_path):
    idea_picture = tools('idea_picture')
    idea_picture.main(['--out', str(tmp_path / 'idea.jpg')])
    assert 30_000 < (tmp_path / 'idea.jpg').stat().st_size < 150_000
    assert [path.name for path in tmp_path.iterdir()] == ['idea.jpg']
    # The curves are the p(lambda) of the page, not magnitudes.
    x = torch.linspace(-1, 1, 9)
    expected = (x, 1 - x, 1 + x, 2 * x**2 - 1, 2 + (1 - x) ** 2)
    for curve, value in zip(idea_picture.curves(x).values(), expected, strict=True):
        torch.testing.assert_close(curve, value)


def test_every_picture_of_a_small_set_is_written(root, tmp_path):
    for kind in ('images', 'labels'):
        (tmp_path / 'data' / kind / 'test').mkdir(parents=True)
    street = cv2.imread(str(root / 'demo' / 'street.jpg'))
    for name in 'ab':
        folder = tmp_path / 'data'
        cv2.imwrite(str(folder / 'images' / 'test' / f'{name}.jpg'), street)
        label = np.full(street.shape[:2], ROAD, np.uint8)
        cv2.imwrite(str(folder / 'labels' / 'test' / f'{name}.png'), label)
    command = [sys.executable, str(root / 'tools' / 'test.py')]
    command += [str(root / 'demo' / f'snl_camvid.{end}') for end in ('py', 'pth')]
    command += [
        '--work-dir',
        str(tmp_path / 'run'),
        '--show-dir',
        str(tmp_path / 'see'),
    ]
    command += [
        '--cfg-options',
        f'test_dataloader.dataset.data_root={folder}',
        # mmseg's hook asks for the iteration, for which mmengine reads this set, too.
        f'train_dataloader.dataset.data_root={folder}',
        'train_dataloader.dataset.data_prefix.img_path=images/test',
        'train_dataloader.dataset.data_prefix.seg_map_path=labels/test',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
    ]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = (tmp_path / 'see' / 'vis_data' / 'vis_image').glob('*.png')
    assert {path.name for path in seen} == {f'test_{name}.jpg_0.png' for name in 'ab'}
