# Copyright (c) The nl_plugins authors. All rights reserved.
"""What the scripts print on standard error: our line, and no warning of others.

Runs of train.py and test.py of the four codebases are looked at by
``test_train_test.py``, which makes them anyway.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import forks
import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = 'tests/test_tools/tiny'
RUNS = [
    ['tools/analysis_tools/list_places.py', f'{TINY}/{name}.py']
    for name in ('classification', 'segmentation', 'recognition', 'detection')
]
RUNS += [
    ['tools/analysis_tools/get_flops.py', f'{TINY}/segmentation.py', '--shape', '32'],
    [
        'tools/analysis_tools/benchmark.py',
        *('blocks', '--block', 'SNLBlock', '--shape', '1,8,8,8', '--seconds', '0.01'),
    ],
    [
        'tools/dataset_converters/make_mini_data.py',
        *('--only', 'cifar10', '--cifar10', '10', '10', '--out', '{tmp}'),
    ],
    [
        'tools/deployment/export.py',
        *('--block', 'SNLBlock', '--shape', '1', '8', '8', '8'),
        *('--format', 'onnx', '--out', '{tmp}/block.onnx'),
    ],
]


def environment() -> dict:
    """That of a user: nothing was announced, Python's own choice of warnings."""
    ours = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / TINY)])}
    for name in ('NL_PLUGINS_ANNOUNCED', 'PYTHONWARNINGS'):
        ours.pop(name, None)
    return ours


def assert_quiet(said: str) -> None:
    foreign = re.sub(r'(?m)^nl_plugins: .*doctor lists them\n', '', said, count=1)
    assert foreign == ''


def test_every_script_explains_itself_quietly(tmp_path):
    pytest.importorskip('mmengine')
    tools = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / 'tools').rglob('*.py'))
        if "__name__ == '__main__'" in path.read_text(encoding='utf-8')
    ]
    assert len(tools) > 20
    commands = [[tool, '--help'] for tool in tools]
    # torch, a second each time, is imported once.
    results = forks.run(commands, tmp_path, ['torch'], cwd=ROOT, env=environment())
    for tool, (status, out, said) in zip(tools, results):
        assert status == 0 and 'usage' in out, f'{tool}: {said}'
        assert_quiet(said)


@pytest.mark.parametrize('words', RUNS, ids=lambda words: ' '.join(words[:2]))
def test_a_tiny_run_is_quiet(tmp_path, words):
    for package in ('mmpretrain', 'mmseg', 'mmaction', 'mmdet'):
        pytest.importorskip(package)
    result = subprocess.run(
        [sys.executable, *(word.format(tmp=tmp_path) for word in words)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert_quiet(result.stderr)
