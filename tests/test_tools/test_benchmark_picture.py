# Copyright (c) The nl_plugins authors. All rights reserved.
"""The picture of the benchmarks shows the numbers of the table on its page."""

import importlib
import re

import pytest

plt = pytest.importorskip('matplotlib.pyplot')


@pytest.fixture
def picture(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'tools' / 'visualization'))
    return importlib.import_module('benchmark_picture')


@pytest.fixture
def texts(monkeypatch):
    """Names of the groups, and labels of the bars, of the figure that was drawn."""
    found = {}

    def keep(figure):
        (axes,) = figure.axes
        found['groups'] = [label.get_text() for label in axes.get_yticklabels()]
        found['bars'] = [text.get_text().strip() for text in axes.texts]

    monkeypatch.setattr(plt, 'close', keep)
    yield found
    monkeypatch.undo()
    plt.close('all')


def test_every_number_of_the_table_is_a_bar(picture, texts, root, tmp_path):
    assert picture.main(['--out', str(tmp_path / 'picture.png')]) == 0
    page = (root / 'docs' / 'en' / 'benchmarks.md').read_text(encoding='utf-8')
    table = page.split('<!-- results -->')[1].split('<!-- end results -->')[0]
    expected = []
    for line in table.strip().splitlines()[2:]:
        ratios = re.findall(r'\| (\S+x|–) (?=\|)', line)  # forward, step, memory, both
        measured = [ratios[0], ratios[1], ratios[3]]
        if set(measured) != {'–'}:
            expected += [
                'dense form too large' if r == '–' else f'{float(r[:-1]):.1f}x'
                for r in measured
            ]
    assert len(expected) > 40
    assert sorted(texts['bars']) == sorted(expected)
    assert 3 * len(texts['groups']) == len(expected)  # none is empty


def test_a_page_without_the_table(picture, tmp_path, capsys):
    page = tmp_path / 'page.md'
    page.write_text('<!-- results -->\n| a | b |\n<!-- end results -->\n')
    out = tmp_path / 'picture.png'
    assert picture.main(['--page', str(page), '--out', str(out)]) == 1
    assert 'has no table' in capsys.readouterr().err
    assert not out.exists()
