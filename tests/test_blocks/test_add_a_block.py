# Copyright (c) The nl_plugins authors. All rights reserved.
"""The page about adding a block does what it says, in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys

import pytest

PROGRAM = """
import sys

import pytest
import torch
import torch.nn as nn
from mmengine.registry import MODELS
from nl_plugins.blocks import BLOCKS
import nl_plugins.blocks.cosine

{config}
assert BLOCKS['CosineNLBlock'] is nl_plugins.blocks.cosine.CosineNLBlock
assert nl_plugins.CosineNLBlock is BLOCKS['CosineNLBlock']
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
x = torch.randn(2, 3, 9, 9)
expected = net(x)
net = MODELS.build(
    dict(type='NonLocalBackbone', backbone=net, inserts=[dict(after='0', cfg=block)])
)
assert any('cosine_nl_block' in name for name in net.state_dict()), net
assert torch.equal(net(x), expected)
try:
    MODELS.build(dict(type='CosineNLBlock', in_channels=8, redution=4))
except TypeError as error:
    assert 'redution' in str(error)
else:
    raise AssertionError('a misspelt option was accepted')

checks = ['tests/test_blocks/test_every_block.py', '-k', 'CosineNLBlock']
sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *checks]))
"""


@pytest.fixture(scope='module')
def page(root):
    text = (root / 'docs/en/add_a_block.md').read_text(encoding='utf-8')
    return re.findall(r'```python\n(.*?)```', text, re.DOTALL)


def test_the_block_is_short(page):
    lines = [line for line in page[0].splitlines() if line.strip()]
    assert len(lines) < 40


def test_the_file_is_all_it_takes(page, root, tmp_path):
    code, config = page
    ignored = shutil.ignore_patterns(
        '__pycache__', '.mim'
    )  # .mim links to the repository
    shutil.copytree(root / 'nl_plugins', tmp_path / 'nl_plugins', ignore=ignored)
    (tmp_path / 'nl_plugins/blocks/cosine.py').write_text(code, encoding='utf-8')
    (tmp_path / 'tests').mkdir()
    shutil.copy(root / 'tests/conftest.py', tmp_path / 'tests')
    shutil.copytree(
        root / 'tests/test_blocks', tmp_path / 'tests/test_blocks', ignore=ignored
    )
    shutil.copy(root / 'setup.cfg', tmp_path)
    (tmp_path / 'use_it.py').write_text(PROGRAM.format(config=config), encoding='utf-8')

    environment = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    result = subprocess.run(
        [sys.executable, 'use_it.py'],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    # Two variants, three dimensions, nine checks, and the signature.
    assert re.search(r'\b55 passed', result.stdout), result.stdout
