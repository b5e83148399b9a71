# Copyright (c) The nl_plugins authors. All rights reserved.
"""The findings page says what the JSONs of the experiments say."""

import json
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAN = float('nan')


def test_the_page_is_what_the_jsons_say(script):
    module = script('findings_page')
    assert module.page() == module.PAGE.read_text(encoding='utf-8'), (
        'run python .dev_scripts/experiments/findings_page.py'
    )


def test_another_number_is_another_page(script, tmp_path, monkeypatch):
    module = script('findings_page')
    paths = list(module.FOLDER.glob('*.json'))
    for path in paths:
        shutil.copy(path, tmp_path)
    for path in paths:
        changed = json.loads(path.read_text())
        for run in changed['runs']:
            for key in ('miou', 'radius', 'top1'):
                if isinstance(run.get(key), dict):
                    run[key] = {k: v + 9 for k, v in run[key].items()}
                elif key in run:
                    run[key] += 9
        (tmp_path / path.name).write_text(json.dumps(changed))
        with monkeypatch.context() as patch:
            patch.setattr(module, 'FOLDER', tmp_path)
            assert module.page() != module.PAGE.read_text(encoding='utf-8'), path
        shutil.copy(path, tmp_path)


def test_nothing_is_claimed_where_the_interval_holds_0(script):
    module = script('findings_page')
    assert module.interval((1, 0.5, 2)) == '**+1.00 [+0.50, +2.00]**'
    assert module.interval((1, -0.5, 2)) == '+1.00 [-0.50, +2.00]'
    assert module.interval((1, NAN, NAN), 1) == '+1.0 (one seed)'
    found = dict(A=(1, 0.5, 2), B=(-1, -2, -0.1), C=(1, -1, 3), D=(5, NAN, NAN))
    said = module.verdict(found, 'FCN', 3)
    assert said == (
        'Of 3 seeds, above FCN: A; below FCN: B; not told apart from FCN: C, D.'
    )


def test_only_complete_seeds_count(script, tmp_path, monkeypatch):
    module = script('findings_page')
    runs = [dict(seed=s, variant=v, miou=s) for s, v in [(0, 'a'), (0, 'b'), (1, 'a')]]
    content = dict(setting={}, machine='m', runs=runs)
    (tmp_path / 'x.json').write_text(json.dumps(content))
    monkeypatch.setattr(module, 'FOLDER', tmp_path)
    assert module.Experiment('x').seeds == [0]
    assert module.Experiment('x', ['a']).seeds == [0, 1]
    assert module.Experiment('x').budget.startswith('1 seed, ')


def test_pictures_and_links_exist():
    page = (ROOT / 'docs/en/findings.md').read_text(encoding='utf-8')
    pictures = re.findall(r'\]\((_static/[^)]+)\)', page)
    assert pictures
    for name in pictures:
        assert (ROOT / 'docs/en' / name).is_file(), name
    assert 'findings' in (ROOT / 'docs/en/index.md').read_text(encoding='utf-8')


@pytest.mark.parametrize('name', ['camvid_heads', 'camvid_analysis'])
def test_no_path_of_a_machine_is_kept(name):
    text = (ROOT / f'docs/en/findings/{name}.json').read_text()
    assert not re.search(r'/(home|tmp|work|root)/', text)
