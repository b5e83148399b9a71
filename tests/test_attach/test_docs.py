# Copyright (c) The nl_plugins authors. All rights reserved.
"""The code of docs/en/attach.md runs as written."""

import re

import pytest
from mmengine.registry.default_scope import DefaultScope


def test_the_page_runs(root):
    pytest.importorskip('mmpretrain')
    page = (root / 'docs' / 'en' / 'attach.md').read_text(encoding='utf-8')
    code = re.findall(r'```python\n(.*?)```', page, flags=re.DOTALL)
    assert len(code) == 4
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        exec(compile('\n'.join(code), 'attach.md', 'exec'), {})
