# Copyright (c) The nl_plugins authors. All rights reserved.
"""list_places.py prints modules that a block can follow, and they can be followed."""

import json
import runpy
import sys

import pytest

TOOL = 'tools/analysis_tools/list_places.py'


@pytest.fixture
def tool(root, monkeypatch):
    def run(*argv):
        monkeypatch.setattr(sys, 'argv', [TOOL, *argv])
        runpy.run_path(str(root / TOOL), run_name='__main__')

    return run


CONFIG = """
default_scope = {scope!r}
model = dict(type={kind!r}, backbone=dict({backbone}))
"""


def _config(tmp_path, scope, kind, backbone):
    path = tmp_path / 'config.py'
    path.write_text(CONFIG.format(scope=scope, kind=kind, backbone=backbone))
    return str(path)


def test_rows_as_data(tool, tmp_path, capsys):
    pytest.importorskip('mmpretrain')
    config = _config(
        tmp_path,
        'mmpretrain',
        'ImageClassifier',
        "type='ResNet', depth=18, frozen_stages=1",
    )
    tool(config, '--json', '--shape', '64', '96')
    rows = {row['after']: row for row in json.loads(capsys.readouterr().out)}
    row = rows['layer2.1']
    assert row == dict(
        after='layer2.1',
        type='BasicBlock',
        in_channels=128,
        ndim=2,
        size=[8, 12],
        matrix_bytes=4 * 96**2,
        frozen=False,
    )
    assert rows['layer1.1']['frozen'] and 'layer2.1.conv1' not in rows


def test_lines_to_paste(tool, tmp_path, capsys):
    pytest.importorskip('mmaction')
    config = _config(
        tmp_path, 'mmaction', 'Recognizer3D', "type='ResNet3dSlowOnly', depth=50"
    )
    tool(config, '--shape', '4', '64', '64')
    out = capsys.readouterr().out
    line = "inserts=[dict(after='layer3.5', cfg=dict(type='NLBlock', ndim=3))]"
    assert line in out
    assert '| `layer3.5` | Bottleneck3d | 1024 | 3 | 4x4x4 | 16.0 KiB |' in out


@pytest.mark.parametrize(
    'backbone, segments',
    [
        ("type='ResNetTSM', depth=18, num_segments=8, pretrained2d=False", '8'),
        ("type='ResNet', depth=18", "'input'"),
    ],
)
def test_frames_to_paste(tool, tmp_path, capsys, backbone, segments):
    pytest.importorskip('mmaction')
    tool(_config(tmp_path, 'mmaction', 'Recognizer2D', backbone), '--shape', '64', '64')
    line = (
        f"after='layer3.1', num_segments={segments}, cfg=dict(type='NLBlock', ndim=3)"
    )
    assert line in capsys.readouterr().out


def test_mistakes_in_files(tool, tmp_path):
    with pytest.raises(SystemExit, match='there is no config .*none.py'):
        tool(str(tmp_path / 'none.py'))
    pytest.importorskip('mmseg')
    config = _config(tmp_path, 'mmseg', 'EncoderDecoder', "type='ResNetVc'")
    with pytest.raises(SystemExit, match='cannot be built: ResNetVc is not in the'):
        tool(config)


def test_a_mistake_is_one_sentence(tool, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text("default_scope = 'mmocr'\nmodel = dict()\n")
    with pytest.raises(SystemExit, match='default_scope must be one of'):
        tool(str(path))
