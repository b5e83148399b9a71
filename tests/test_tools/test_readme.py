# Copyright (c) The nl_plugins authors. All rights reserved.
"""The README keeps its word: its table is complete, its config runs as written."""

import re

import pytest
import torch


@pytest.fixture(scope='module')
def readme(root):
    return (root / 'README.md').read_text(encoding='utf-8')


def test_the_tables_folders_hold_configs(root, readme):
    folders = re.findall(r'\]\((configs/[\w/]+)\)', readme)
    assert len(folders) > 20
    assert [name for name in folders if not list((root / name).glob('*.py'))] == []


def test_the_table_names_every_block(readme):
    from nl_plugins.blocks import BLOCKS

    rows = [line for line in readme.splitlines() if line.startswith('| `')]
    named = set(re.findall(r'`(\w+)`', ' '.join(row.split('|')[1] for row in rows)))
    assert named == set(BLOCKS)


def test_speed_and_memory_are_those_of_the_benchmarks(root, readme):
    """Each row of the README is one of the page, rounded to three digits and two."""
    page = (root / 'docs' / 'en' / 'benchmarks.md').read_text(encoding='utf-8')
    names = {
        '`SNLBlock`': 'SNLBlock()',
        '`NLBlock`, dot product': 'NLBlock(mode=dot_product)',
        '`NLBlock`, embedded Gaussian': 'NLBlock(mode=embedded_gaussian)',
    }
    number = r'([\d.e+,]+)'
    rows = re.findall(
        rf"^\| (`\w+`[\w, ]*?)(?:, against mmcv's)? \| {number} s → {number} s "
        rf'\({number}x\) \| {number} MiB → {number} MiB \({number}x\) \|$',
        readme,
        re.MULTILINE,
    )
    assert [row[0] for row in rows] == list(names)
    for name, *shown in rows:
        (line,) = re.findall(
            rf'^\| {re.escape(names[name])} \| 1x512x128x256 \| (.+)$', page, re.M
        )
        time, faster, _, _, memory, smaller = line.split(' | ')[:6]
        ours, dense = (
            float(text) / 1000 for text in re.match(r'(\S+) \((\S+)\)', time).groups()
        )
        held, whole = map(float, re.match(r'(\S+) \((\S+)\)', memory).groups())
        expected = [dense, ours, float(faster[:-1]), whole, held, float(smaller[:-1])]
        for text, value in zip(shown, expected):
            assert float(text.replace(',', '')) == pytest.approx(value, rel=0.012)


def test_pictures_are_small(root):
    pictures = list((root / 'docs' / 'en' / '_static').glob('*'))
    assert pictures
    assert all(path.stat().st_size < 150_000 for path in pictures)


def test_the_ten_lines_run_as_written(readme, tmp_path):
    pytest.importorskip('mmpretrain')
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    code = re.search(r'```python\n(.*?)```', readme, re.DOTALL).group(1)
    assert len(code.strip().splitlines()) == 10
    path = tmp_path / 'config.py'
    path.write_text(code)
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model).eval()
        plain = MODELS.build(
            dict(cfg.model, backbone=cfg.model.backbone.backbone)
        ).eval()
        model.init_weights()
    missing, unexpected = plain.load_state_dict(model.state_dict(), strict=False)
    assert missing == [] and unexpected
    assert all(name.startswith('backbone.layer3.4.snl_block') for name in unexpected)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():  # the new block starts as the identity
        torch.testing.assert_close(model(x), plain(x), rtol=0, atol=0)
