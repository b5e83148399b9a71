# Copyright (c) The nl_plugins authors. All rights reserved.
"""The page about adding a block does what it says, in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from . import checks

PROGRAM = """
import sys

import numpy
import pytest
import torch
import torch.nn as nn
from mmengine.registry import MODELS
from nl_plugins.blocks import BLOCKS
import nl_plugins.blocks.cosine
from mmengine.registry import DefaultScope

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

# the page's neck and head, in mmseg and narrow
with DefaultScope.overwrite_default_scope('mmseg'):
    with MODELS.switch_scope_and_registry('mmseg') as registry:
        neck = registry.build(dict(neck, in_channels=8))
        sizes = dict(in_channels=8, channels=8, num_classes=3, in_index=0)
        head = registry.build(dict(decode_head, **sizes))
cosine = BLOCKS['CosineNLBlock']
features = [torch.randn(2, 8, 5, 6)]
assert any(isinstance(module, cosine) for module in neck.modules())
assert torch.equal(neck(features)[0], features[0])
assert isinstance(head.nl_block, cosine)
scores = head(features)
assert scores.shape == (2, 3, 5, 6)
scores.sum().backward()
assert head.nl_block.conv_out.conv.weight.grad is not None

# the page's picture
images = x
{picture}
assert heat.shape == (64, 64) and torch.isfinite(heat).all()
drawn = nl_plugins.analysis.picture.draw_attention(
    record, [numpy.zeros((64, 64, 3), numpy.uint8)], (0.2, 0.3)
)
assert len(drawn) == 1 and drawn[0].shape[2] == 3 and drawn[0].any()
assert min(drawn[0].shape[:2]) >= 224

# its row in the benchmark
sys.path.insert(0, 'tools/analysis_tools')
import benchmark

benchmark.matrix_product_rate = lambda *_: 1e9
command = 'benchmark.py blocks --block CosineNLBlock --shape 1,8,6,6 --seconds 0.01'
sys.argv = command.split()
benchmark.main()

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
    pytest.importorskip('mmseg')
    code, config, picture = page
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
    tools = 'tools/analysis_tools'
    shutil.copytree(root / tools, tmp_path / tools, ignore=ignored)
    program = PROGRAM.format(config=config, picture=picture)
    (tmp_path / 'use_it.py').write_text(program, encoding='utf-8')

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
    assert '| CosineNLBlock() | 1x8x6x6 |' in result.stdout, result.stdout
    # Two variants in three dimensions: every check, and empty inputs. The signature.
    passed = 2 * 3 * (len(checks.ALL) + 1) + 1
    assert re.search(rf'\b{passed} passed', result.stdout), result.stdout
