# Copyright (c) The nl_plugins authors. All rights reserved.
"""The README keeps its word: links lead somewhere, its config runs as written."""

import re

import pytest
import torch


@pytest.fixture(scope='module')
def readme(root):
    return (root / 'README.md').read_text(encoding='utf-8')


def test_every_link_leads_somewhere(root, readme):
    links = re.findall(r'\]\(([^)\s]+)\)', readme)
    local = [link.split('#')[0] for link in links if not link.startswith('http')]
    assert len(local) > 20
    assert [link for link in local if not (root / link).exists()] == []
    linked = [root / link for link in local if link.startswith('configs/')]
    folders = [path for path in linked if path.is_dir()]
    assert [str(path) for path in folders if not list(path.glob('*.py'))] == []


def test_every_tool_and_config_named_exists(root, readme):
    named = set(re.findall(r'\b(?:tools|configs|requirements)/[\w./-]*\.\w+', readme))
    assert len(named) > 6
    assert [name for name in sorted(named) if not (root / name).is_file()] == []


def test_the_table_names_every_block(readme):
    from nl_plugins.blocks import BLOCKS

    rows = [line for line in readme.splitlines() if line.startswith('| `')]
    named = set(re.findall(r'`(\w+)`', ' '.join(row.split('|')[1] for row in rows)))
    assert named == set(BLOCKS)


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
