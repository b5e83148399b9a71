# Copyright (c) The nl_plugins authors. All rights reserved.
"""The pictures of measurements show the numbers of the tables on their pages."""

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
    """By title of the axes: names of the groups, and labels of the bars."""
    found = {}

    def keep(figure):
        for axes in figure.axes:
            ticks = (axes.get_xticklabels(), axes.get_yticklabels())
            found[axes.get_title()] = dict(
                names=[[label.get_text() for label in labels] for labels in ticks],
                bars=[text.get_text().strip() for text in axes.texts],
            )

    monkeypatch.setattr(plt, 'close', keep)
    yield found
    monkeypatch.undo()
    plt.close('all')


def test_every_number_of_the_table_is_a_bar(picture, texts, root, tmp_path):
    assert picture.main(['--out', str(tmp_path)]) == 0
    drawn = texts['']
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
    assert sorted(drawn['bars']) == sorted(expected)
    assert 3 * len(drawn['names'][1]) == len(expected)  # none is empty
    text = (root / 'docs' / 'en' / 'accelerate.md').read_text(encoding='utf-8')
    (danet,) = re.findall(r'^\| DANet \|.*1024.*|^\| DANet \| [\d,]+ MiB.*', text, re.M)
    expected = [
        f'{int(n.replace(",", "")) / 1024:.1f}'
        for n in re.findall(r'([\d,]+) MiB', danet)
    ]
    first, second = (drawn for title, drawn in texts.items() if title)
    assert {*expected[:2]} <= {*first['bars']} and expected[2] in second['bars']
    assert first['names'][0] == ['DANet', 'NLNet', 'DNLNet', 'CCNet']
    assert second['names'][0] == ['DANet', 'NLNet', 'DNLNet', 'CCNet']
    assert second['bars'].count('not\nrun') == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'benchmark.png',
        'whole_images.png',
    ]


@pytest.mark.parametrize('name', ['benchmarks.md', 'accelerate.md'])
def test_a_page_without_the_table(picture, root, tmp_path, capsys, name):
    for page in ('benchmarks.md', 'accelerate.md'):
        text = (root / 'docs' / 'en' / page).read_text(encoding='utf-8')
        if page == name:
            text = '<!-- results -->\n| a | b |\n<!-- end results -->\n'
        (tmp_path / page).write_text(text, encoding='utf-8')
    out = tmp_path / 'pictures'
    assert picture.main(['--pages', str(tmp_path), '--out', str(out)]) == 1
    assert re.search(f'{name} has no table', capsys.readouterr().err)
    assert not out.exists()
