# Copyright (c) The nl_plugins authors. All rights reserved.
"""Fused scores against the formula and against mmaction2's own tool."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmaction')

import torch  # noqa: E402
from mmaction.evaluation import get_weighted_score  # noqa: E402
from mmaction.structures import ActionDataSample  # noqa: E402
from mmengine.evaluator import DumpResults  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def tool():
    path = ROOT / 'tools/analysis_tools/fuse_scores.py'
    spec = importlib.util.spec_from_file_location('fuse_scores', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dump(path, logits, labels):
    """What ``test.py --dump`` writes: the mean logits of each video's views."""
    metric = DumpResults(str(path))
    samples = [
        ActionDataSample(metainfo=dict(img_shape=(8, 8)))
        .set_gt_label(int(y))
        .set_pred_score(views.mean(0))
        .to_dict()
        for views, y in zip(logits, labels)
    ]
    metric.process(None, samples)
    metric.evaluate(len(samples))
    return path


@pytest.fixture
def two(tmp_path):
    """Logits (videos, views, classes) of 16 and of 8 frames, and their dumps."""
    torch.manual_seed(0)
    labels = torch.randint(10, (30,))
    logits = [torch.randn(30, views, 10, dtype=torch.float64) for views in (30, 6)]
    logits = [x + 0.4 * torch.eye(10)[labels][:, None] for x in logits]
    paths = [dump(tmp_path / f'{i}.pkl', x, labels) for i, x in enumerate(logits)]
    return logits, labels, paths


@pytest.mark.parametrize('coefficients', [(1, 1), (2, 0.5)])
def test_fused_scores_are_the_formula(tool, two, tmp_path, coefficients, capsys):
    logits, labels, paths = two
    out = tmp_path / 'fused.pkl'
    args = [*map(str, paths), '--coefficients', *map(str, coefficients)]
    tool.main([*args, '--out', str(out)])
    wanted = sum(c * x.mean(1) for c, x in zip(coefficients, logits)) / 2
    found, found_labels = tool.read_dump(out)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-12)
    assert np.array_equal(found_labels, labels.numpy())
    top1 = 100 * (wanted.argmax(1) == labels).double().mean()
    ranks = (wanted.argsort(1, descending=True)[:, :5] == labels[:, None]).any(1)
    line = capsys.readouterr().out.splitlines()[-1].split()
    assert line[1] == f'{top1:.2f}'
    assert line[2] == f'{100 * ranks.double().mean():.2f}'


def test_upstream_weights_alike(tool, two):
    """mmaction2's report tool sums; the division by the networks moves no rank."""
    logits, _, _ = two
    scores = [x.mean(1).numpy() for x in logits]
    theirs = get_weighted_score([list(s) for s in scores], [1.0, 0.5])
    ours = tool.fuse(scores, [1.0, 0.5])
    np.testing.assert_allclose(ours * 2, np.stack(theirs), rtol=0, atol=1e-12)


def test_softmax(tool):
    logits = torch.randn(4, 7, dtype=torch.float64)
    np.testing.assert_allclose(
        tool.softmax(logits.numpy()), logits.softmax(1).numpy(), rtol=0, atol=1e-14
    )


def test_errors(tool, two, tmp_path):
    logits, labels, paths = two
    with pytest.raises(SystemExit, match='2 dumps need as many coefficients'):
        tool.main([*map(str, paths), '--coefficients', '1'])
    other = dump(tmp_path / 'other.pkl', logits[0], labels.flip(0))
    with pytest.raises(SystemExit, match='other videos, or another order'):
        tool.main([str(paths[0]), str(other)])
    for number in ('nan', 'inf'):
        with pytest.raises(SystemExit, match=f'finite numbers, but got .*{number}'):
            tool.main([*map(str, paths), '--coefficients', '1', number])
    for name, label in (('multi', torch.tensor([0, 2])), ('none', None)):
        sample = dict(pred_score=torch.rand(3), gt_label=label)
        (tmp_path / f'{name}.pkl').write_bytes(pickle.dumps([sample]))
        with pytest.raises(SystemExit, match='not a dump of single-label'):
            tool.main([str(tmp_path / f'{name}.pkl')])
    (tmp_path / 'text.pkl').write_text('no pickle')
    with pytest.raises(SystemExit, match='not a dump of single-label'):
        tool.main([str(tmp_path / 'text.pkl')])


class Harm:
    def __reduce__(self):
        return Path.touch, (Path('harm'),)


def test_files_execute_nothing(tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'bad.pkl').write_bytes(pickle.dumps([Harm()]))
    with pytest.raises(SystemExit, match='is not a dump .* which is not loaded'):
        tool.main(['bad.pkl'])
    assert not Path('harm').exists()
