# Copyright (c) The nl_plugins authors. All rights reserved.
"""The benchmark of blocks: what it compares, prints and writes."""

import importlib.util
import json
import sys

import pytest
import torch

from nl_plugins import graph
from nl_plugins.blocks import BLOCKS


@pytest.fixture(scope='module')
def benchmark(root):
    path = root / 'tools/analysis_tools/benchmark.py'
    spec = importlib.util.spec_from_file_location('nl_benchmark', path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    'name, options',
    [('ChebyshevNLBlock', {'order': 3})]
    + [('NLBlock', dict(mode=mode)) for mode in ('gaussian', 'concatenation')]
    + [('NLBlock', {'sub_sample': True, 'norm_cfg': {'type': 'BN'}})],
)
def test_the_written_form_gives_the_same_numbers(benchmark, name, options):
    block = benchmark.trained(BLOCKS[name](8, **options)).double().eval()
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        written = benchmark.as_written(block)
        if isinstance(written, torch.nn.Module):
            written.eval()
        torch.testing.assert_close(written(x), block(x))


def test_blocks_without_a_published_module_are_compared_with_themselves(benchmark):
    assert benchmark.as_written(BLOCKS['SNLBlock'](8)) is None
    unlike_mmcv = BLOCKS['NLBlock'](8, norm_cfg=dict(type='BN'), out_bias=True)
    assert benchmark.as_written(unlike_mmcv) is None
    assert benchmark.as_written(BLOCKS['NLBlock'](8, use_scale='inverted')) is None


def test_rows_json_and_picture(benchmark, tmp_path, monkeypatch, capsys):
    command = 'benchmark.py blocks --block SNLBlock --shape 1,8,8,8 --seconds 0'
    arguments = [*command.split(), '--clock', 'cpu', '--out', str(tmp_path)]
    monkeypatch.setattr('sys.argv', arguments)
    benchmark.main()
    printed = capsys.readouterr().out
    assert '| SNLBlock() | 1x8x8x8 |' in printed
    assert 'G multiplications/s' in printed
    result = json.loads((tmp_path / 'benchmark.json').read_text())
    (row,) = result['rows']
    assert row['difference'] < 1e-4
    assert row['memory'] > 0
    assert row['forward_ratio'] == pytest.approx(row['forward_dense'] / row['forward'])
    assert result['command'].startswith('benchmark.py blocks')
    assert (tmp_path / 'benchmark.png').read_bytes()[:4] == b'\x89PNG'
    assert not list(tmp_path.glob('*.tmp'))


def test_a_dense_form_that_does_not_fit_is_not_run(benchmark, monkeypatch, capsys):
    command = 'benchmark.py blocks --block SNLBlock --shape 1,8,8,8 --seconds 0'
    monkeypatch.setattr('sys.argv', [*command.split(), '--dense-limit', '0'])

    def refuse(name):
        raise AssertionError(f'{name} was forced')

    monkeypatch.setattr(graph, 'force', refuse)
    benchmark.main()
    assert 'too large' in capsys.readouterr().out


def test_level_model_needs_a_config(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_args(['model'])
    assert 'needs a CONFIG' in capsys.readouterr().err


def test_options_are_json(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_args(['blocks', '--options', 'mode=gaussian'])
    assert 'takes a JSON object such as' in capsys.readouterr().err
