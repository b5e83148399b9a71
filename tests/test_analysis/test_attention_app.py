# Copyright (c) The nl_plugins authors. All rights reserved.
"""The page of attention_app.py holds the rows of the blocks and shows the right one."""

import base64
import importlib
import json
import re
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browser import Browser, find_browser
from mmengine.registry.default_scope import DefaultScope

from nl_plugins.analysis import AttentionRecord

LAYER = 'backbone.cells.0.nl_block'


@pytest.fixture(autouse=True)
def leave_no_trace(colours, monkeypatch):
    """The backbone can be imported; the scope that the tool sets does not stay."""
    monkeypatch.syspath_prepend(str(colours))
    scopes = DefaultScope._instance_dict.copy()
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)


@pytest.fixture(scope='module')
def app(root):
    sys.path.insert(0, str(root / 'tools' / 'visualization'))
    try:
        return importlib.import_module('attention_app')
    finally:
        sys.path.pop(0)


def write(app, colours, name, out, *options):
    """The file, written from the network that looks at colours."""
    pytest.importorskip('mmpretrain' if name == 'image' else 'mmaction')
    inputs = [f'{name}.py', f'{name}.pth', f'{name}{SUFFIX[name]}']
    paths = [str(colours / path) for path in inputs]
    assert app.main([*paths, '--out', str(out), *options]) == 0
    return out


SUFFIX = dict(image='.png', clip='.mp4')


def data_of(path):
    text = re.search('id="data">(.*?)</script>', path.read_text(encoding='utf-8'))[1]
    return json.loads(text)


def row_of(block, cell):
    """Weights of the coarse keys, decoded as the page does."""
    rows = np.frombuffer(base64.b64decode(block['rows']), np.int8)
    rows = rows.reshape(*block['queries'], *block['keys'])
    scales = np.reshape(block['scales'], block['queries'])
    return rows[tuple(cell)] * scales[tuple(cell)] / 127


@pytest.mark.parametrize('name', ['image', 'clip'])
def test_the_file_is_complete_and_asks_for_nothing(app, colours, tmp_path, name):
    path = write(app, colours, name, tmp_path / 'sub' / 'page.html')
    assert [file.name for file in path.parent.iterdir()] == ['page.html']
    text = path.read_text(encoding='utf-8')
    assert len(text) < 5_000_000
    assert not re.search(r'(src|href)="|@import|fetch\(', text)
    assert set(re.findall(r'https?://[^\'"]+', text)) == {'http://www.w3.org/2000/svg'}
    data = data_of(path)
    frames = 1 if name == 'image' else 4
    assert data['total'] == len(data['frames']) == frames
    (block,) = data['blocks']
    assert (block['name'], block['kind']) == (LAYER, 'NLBlock')
    assert block['grid'] == block['queries'] == block['keys'] == [frames, 16, 24]
    # The square is at (16, 32), and moves by 16 in a clip; a cell has 4 x 4 pixels.
    cell = [0, 6, 10] if name == 'image' else [2, 6, 10]
    row = row_of(block, cell)
    assert row.sum() == pytest.approx(1, abs=0.1)
    for time, weights in enumerate(row):
        left = 8 if name == 'image' else 4 * time
        square = weights[4:8, left : left + 4]
        assert square.min() > 10 * weights[10:].max()
    spectrum = block['spectrum']
    assert sum(spectrum['shares']) == pytest.approx(1, abs=1e-3)
    assert len(spectrum['lambdas']) == len(spectrum['gains']) == 101


def test_coarse_grids_fit_their_budget(app):
    queries, keys = app.grids((32, 56, 56), (32, 56, 56), 1_000_000)
    assert np.prod(queries) * np.prod(keys) <= 1_000_000
    assert min(np.prod(queries), np.prod(keys)) >= 300
    assert app.grids((1, 12, 15), (1, 6, 7), 1 << 20) == ((1, 12, 15), (1, 6, 7))


class Fixed:
    """An affinity of which only rows are asked for."""

    def __init__(self, matrices):
        self.matrices, self.shape = matrices, matrices.shape

    def rows(self, index):
        return self.matrices[:, index]


@pytest.mark.parametrize('per_frame', [False, True])
def test_rows_are_those_of_the_record(app, per_frame):
    torch.manual_seed(0)
    frames, grid = 3, (40, 36)
    size = 40 * 36
    if per_frame:
        record = AttentionRecord(Fixed(torch.randn(frames, size, size)), grid)
    else:
        record = AttentionRecord(Fixed(torch.randn(1, size, size)), (1, *grid))
    found = app.rows_of(record, frames, per_frame, 200_000, 'rows')
    assert found['signed'] and found['per_frame'] == per_frame
    queries, keys = found['queries'], found['keys']
    assert np.prod(queries) * np.prod(keys) <= 200_000
    cell = (queries[0] - 1, 2, 5)
    frame = int((cell[0] + 0.5) * found['grid'][0] / queries[0])
    y, x = (int((c + 0.5) * g / q) for c, g, q in zip(cell[1:], grid, queries[1:]))
    row = record.affinity.matrices[frame, y * 36 + x].view(1, 1, *grid)
    expected = F.adaptive_avg_pool2d(row, keys[1:])[0].numpy()
    error = abs(row_of(found, cell) - expected).max()
    assert error <= 0.6 * abs(expected).max() / 127


@pytest.mark.parametrize('missing', ['config', 'checkpoint', 'input'])
def test_missing_files(app, colours, tmp_path, missing):
    paths = dict(config='image.py', checkpoint='image.pth', input='image.png')
    paths = {key: str(colours / name) for key, name in paths.items()}
    paths[missing] = 'nothing'
    out = tmp_path / 'page.html'
    with pytest.raises(OSError, match=f'{missing} nothing does not exist'):
        app.main([*paths.values(), '--out', str(out)])
    assert not out.exists()


def test_a_layer_without_block(app, colours, tmp_path):
    pytest.importorskip('mmpretrain')
    paths = [str(colours / f'image.{end}') for end in ('py', 'pth', 'png')]
    options = ['--layer', 'backbone.nothing', '--out', str(tmp_path / 'page.html')]
    with pytest.raises(ValueError, match='holds no non-local block'):
        app.main([*paths, *options])
    assert not list(tmp_path.iterdir())


def test_a_name_cannot_end_the_script(app):
    text = app.page(dict(title='</script><script>alert(1)</script>', blocks=[]))
    assert '</script><script>alert' not in text
    assert text.count('<script') == text.count('</script>') == 2


@pytest.fixture
def browser(tmp_path):
    program = find_browser()
    if program is None:
        pytest.skip('no Chromium on the path: a click was not tried')
    with Browser(program, tmp_path / 'profile') as browser:
        yield browser


# Red minus blue of a frame where only the map of the row is.
HEAT = """(() => {
    const canvas = canvases[%d], {width, height} = canvas;
    const pixels = canvas.getContext('2d').getImageData(0, 0, width, height).data;
    const heat = (y, x) => {
        const p = 4 * (Math.floor(y * height) * width + Math.floor(x * width));
        return pixels[p] - pixels[p + 2];
    };
    return [heat(0.38, %f), heat(0.9, 0.5)];
})()"""


@pytest.mark.parametrize('name', ['image', 'clip'])
def test_a_click_shows_the_right_row(app, colours, tmp_path, browser, name):
    path = write(app, colours, name, tmp_path / 'page.html')
    browser.open(path, "document.body?.dataset.ready === 'true'")
    (block,) = data_of(path)['blocks']
    frame = 0 if name == 'image' else 2
    box = browser.evaluate(
        f'(({{x, y, width, height}}) => [x, y, width, height])'
        f'(canvases[{frame}].getBoundingClientRect())'
    )

    def place(y, x):
        return box[0] + x * box[2], box[1] + y * box[3]

    def shown():
        cell = browser.evaluate('query.cell')
        row = np.array(browser.evaluate('rowOf(query.cell)')).reshape(block['keys'])
        np.testing.assert_allclose(row, row_of(block, cell), atol=1e-6)
        return cell

    browser.mouse(*place(0.38, 0.45), click=True)  # on the square, 32 to 48 of 96
    assert shown() == [frame, 6, 10]
    for i in range(block['grid'][0]):
        left = 0.37 if name == 'image' else (16 * i + 6) / 96
        square, ground = browser.evaluate(HEAT % (i, left))
        assert square > 60 > 0 > ground
    assert '(held)' in browser.evaluate("element('query').textContent")
    browser.mouse(*place(0.9, 0.8))  # held: it stays
    assert shown() == [frame, 6, 10]
    browser.mouse(*place(0.9, 0.8), click=True)
    assert shown() == [frame, 14, 19]
    left = 0.37 if name == 'image' else (16 * frame + 6) / 96
    square, ground = browser.evaluate(HEAT % (frame, left))
    assert ground > square - 60
    for kind in ('keyDown', 'keyUp'):
        browser.call('Input.dispatchKeyEvent', type=kind, key='Escape')
    browser.mouse(*place(0.38, 0.45))  # let go: it follows
    assert shown() == [frame, 6, 10]
    assert browser.evaluate("element('spectrum').querySelectorAll('rect').length") > 0
    assert not browser.errors
    assert {url.split(':')[0] for url in browser.requests} <= {'file', 'data'}


def test_a_truncated_clip_is_named(app, colours, tmp_path):
    pytest.importorskip('mmaction')
    whole = (colours / 'clip.mp4').read_bytes()
    path, out = tmp_path / 'cut.mp4', tmp_path / 'page.html'
    path.write_bytes(whole[: len(whole) // 2])
    arguments = [str(colours / 'clip.py'), str(colours / 'clip.pth'), str(path)]
    with pytest.raises(OSError, match=f'the video {path} cannot be read'):
        app.main([*arguments, '--out', str(out)])
    assert not out.exists()
