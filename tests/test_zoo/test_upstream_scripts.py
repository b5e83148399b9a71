# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmpretrain's own hub and evaluation scripts, as installed, on this repository."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

mmpretrain = pytest.importorskip('mmpretrain')
pytest.importorskip('modelindex')

TOOLS = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'analysis_tools'
CONFIG = 'configs/classification/snl/preresnet20-snl1_1xb128-310e_cifar10.py'


@pytest.fixture
def hub(monkeypatch):
    """The hub, which forgets at the end what was registered in a test."""
    from mmpretrain.apis import ModelHub, list_models

    list_models()  # its own models are registered at the first question
    monkeypatch.setattr(ModelHub, '_models_dict', dict(ModelHub._models_dict))
    return ModelHub


def test_the_model_hub_knows_our_models(root, hub):
    from mmpretrain import get_model, list_models

    hub.register_model_index(root / 'model-index.yml', config_prefix=root)
    folder = root / 'configs' / 'classification'
    ours = {path.stem for path in folder.glob('[!_]*/*.py')}
    assert ours <= set(list_models())
    assert 'resnet50_8xb32_in1k' in list_models()  # theirs are still there
    names = list_models('preresnet20-snl1', task='Image Classification')
    assert 'preresnet20-snl1_1xb64-10e_cifar10-subset' in names
    model = get_model(Path(CONFIG).stem, pretrained=False)
    assert type(model.backbone.layer1[1].snl_block).__name__ == 'SNLBlock'
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == hub.get(Path(CONFIG).stem).metadata.parameters


def test_the_example_of_the_docs(root, hub, monkeypatch, capsys):
    page = (root / 'docs/en/model_zoo.md').read_text(encoding='utf-8')
    (code,) = re.findall(r'```python\n(.*?)```', page, flags=re.DOTALL)
    monkeypatch.chdir(root)
    namespace = {}
    exec(code, namespace)
    assert 'preresnet20-snl1_1xb64-10e_cifar10-subset' in capsys.readouterr().out
    assert type(namespace['model']).__name__ == 'ImageClassifier'


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
    runpy.run_path(str(TOOLS / name), run_name='__main__')


def test_their_get_flops(root, monkeypatch, capsys):
    run(monkeypatch, 'get_flops.py', root / CONFIG, '--shape', 32)
    printed = capsys.readouterr().out
    assert 'Params: 0.277M' in printed
    assert 'snl_block' in printed


def test_their_eval_metric(monkeypatch, capsys, tmp_path):
    import torch
    from mmengine import dump

    scores = torch.eye(4)
    predictions = [
        dict(pred_score=scores[i], gt_label=torch.tensor([min(i, 2)])) for i in range(4)
    ]
    dump(predictions, tmp_path / 'result.pkl')
    metric = ['type=Accuracy', 'topk=1']
    run(monkeypatch, 'eval_metric.py', tmp_path / 'result.pkl', '--metric', *metric)
    assert '75.0' in capsys.readouterr().out


def test_their_log_plots(monkeypatch, tmp_path):
    lines = [
        {'loss': 2.0 - step / 10, 'lr': 0.1, 'epoch': 1, 'iter': step, 'step': step}
        for step in range(1, 9)
    ]
    lines.append({'accuracy/top1': 50.0, 'step': 1})
    log = tmp_path / 'scalars.json'
    log.write_text('\n'.join(json.dumps(line) for line in lines))
    monkeypatch.setenv('MPLBACKEND', 'Agg')
    out = tmp_path / 'loss.png'
    run(
        monkeypatch,
        'analyze_logs.py',
        'plot_curve',
        log,
        '--keys',
        'loss',
        '--out',
        out,
    )
    assert out.read_bytes()[:4] == b'\x89PNG'
