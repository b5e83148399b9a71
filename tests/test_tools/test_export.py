# Copyright (c) The nl_plugins authors. All rights reserved.
"""tools/deployment/export.py: every block, and a model of each codebase."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip('mmcv')
from nl_plugins.blocks import BLOCKS  # noqa: E402
from nl_plugins.compat.repair import release  # noqa: E402

SHAPES = {1: (1, 16, 9), 2: (1, 16, 5, 8), 3: (1, 16, 2, 3, 5)}
TINY = 'tests/test_tools/tiny/{}.py'


@pytest.fixture(scope='module')
def export():
    path = ROOT / 'tools' / 'deployment' / 'export.py'
    spec = importlib.util.spec_from_file_location('export', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    paths = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = paths
    del sys.modules[spec.name]


@pytest.fixture(params=['torch_export', 'onnx'])
def fmt(request, export):
    needs(export, request.param)
    return request.param


def needs(export, fmt):
    oldest = export.FORMATS[fmt][1]
    if release(torch.__version__) < release(oldest):
        pytest.skip(f'{fmt} needs torch>={oldest}')
    if fmt == 'onnx':
        for package in ('onnx', 'onnxscript', 'onnxruntime'):
            pytest.importorskip(package)


def run(path, x):
    """The file's own answer."""
    if path.suffix == '.pt2':
        return torch.export.load(path).module()(x)
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=['CPUExecutionProvider']
    )
    (given,) = session.get_inputs()
    return torch.from_numpy(session.run(None, {given.name: x.numpy()})[0])


def check(export, model, shape, path, dynamic_batch=False):
    """Export, and compare on inputs that neither the export nor its check saw."""
    fmt = 'onnx' if path.suffix == '.onnx' else 'torch_export'
    result = export.export(model, shape, fmt, path, dynamic_batch)
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]
    for batch in (1, 40) if dynamic_batch else shape[:1]:
        generator = torch.Generator().manual_seed(5)
        x = torch.randn(batch, *shape[1:], generator=generator)
        with torch.no_grad():
            expected = model(x)
            atol = 1e-5 * expected.abs().max().item()
            torch.testing.assert_close(run(path, x), expected, rtol=1e-4, atol=atol)
    return result


@pytest.mark.parametrize('name', BLOCKS)
def test_every_block(export, fmt, name, tmp_path):
    ndim = 2 if 2 in BLOCKS[name].ndims else BLOCKS[name].ndims[0]
    block = export.block_of(name, {}, SHAPES[ndim])
    x = torch.randn(SHAPES[ndim])
    with torch.no_grad():  # equal outputs mean nothing where the block does nothing
        assert (block(x) - x).abs().max() > 1e-3 * x.abs().max()
    path = tmp_path / f'block{export.FORMATS[fmt][0]}'
    assert check(export, block, SHAPES[ndim], path).dense == []


@pytest.mark.parametrize('name', BLOCKS)
def test_any_number_of_samples(export, fmt, name, tmp_path):
    ndim = 2 if 2 in BLOCKS[name].ndims else BLOCKS[name].ndims[0]
    block = export.block_of(name, {}, SHAPES[ndim])
    path = tmp_path / f'block{export.FORMATS[fmt][0]}'
    result = check(export, block, SHAPES[ndim], path, dynamic_batch=True)
    assert result.dense == [] and result.shapes[0] == (3, *SHAPES[ndim][1:])


@pytest.mark.parametrize('shape', [(3, 256, 2, 2), (3, 32, 16, 16)])
@pytest.mark.parametrize('name', [name for name in BLOCKS if 2 in BLOCKS[name].ndims])
def test_no_rule_binds_the_number_of_samples(export, name, shape, tmp_path):
    needs(export, 'torch_export')
    options = {'mode': 'concatenation'} if name == 'NLBlock' else {}
    block = export.block_of(name, options, shape)
    check(export, block, shape, tmp_path / 'block.pt2', dynamic_batch=True)


@pytest.mark.parametrize('ndim', [1, 3])
def test_other_dimensions(export, ndim, tmp_path):
    needs(export, 'onnx')
    block = export.block_of('RNLBlock', {'sub_sample': True}, SHAPES[ndim])
    check(export, block, SHAPES[ndim], tmp_path / 'block.onnx')


class TwoModes(torch.nn.Module):
    """A block that ONNX knows, and one that it knows as a matrix only."""

    def __init__(self):
        super().__init__()
        self.first = BLOCKS['NLBlock'](16)
        self.second = BLOCKS['NLBlock'](16, mode='concatenation')

    def forward(self, x):
        return self.second(self.first(x))


def test_a_matrix_only_where_onnx_needs_it(export, fmt, tmp_path):
    model = TwoModes().eval()
    export.wake(model)
    path = tmp_path / f'model{export.FORMATS[fmt][0]}'
    result = check(export, model, (2, 16, 52, 52), path)  # no small matrix
    # A graph for ONNX may be captured as a matrix at once.
    assert set(result.dense) <= ({'second'} if fmt == 'onnx' else set())
    if fmt == 'onnx':
        import onnx

        operators = {node.op_type for node in onnx.load(path).graph.node}
        assert operators & {'Relu', 'Softmax'} == {'Relu', 'Softmax'}
    assert 'forward' not in vars(model.second)


@pytest.mark.parametrize(
    'codebase, scope, shape, expected',
    [
        ('mmpretrain', 'classification', [32], (1, 10)),
        ('mmseg', 'segmentation', [64, 128], (1, 19, 2, 4)),
        ('mmaction', 'recognition', [8, 32, 32], (1, 8)),
    ],
)
def test_a_model_of_each_codebase(
    export, monkeypatch, codebase, scope, shape, expected, tmp_path, capsys
):
    from mmengine.config import Config

    pytest.importorskip(codebase)
    monkeypatch.syspath_prepend(ROOT / 'tests' / 'test_tools' / 'tiny')
    config = ROOT / TINY.format(scope)
    model, size = export.model_of(Config.fromfile(config), None, shape)
    assert export.blocks_of(model)
    for fmt, (suffix, _) in export.FORMATS.items():
        needs(export, fmt)
        path = tmp_path / fmt / f'model{suffix}'
        shapes = check(export, model, size, path, dynamic_batch=True).shapes
        assert shapes == ((3, *size[1:]), (3, *expected[1:]))

    if scope == 'classification':  # the same from the command line, with weights
        checkpoint = tmp_path / 'weights.pth'
        torch.save({'state_dict': model.model.state_dict()}, checkpoint)
        path = tmp_path / 'out' / 'model.pt2'
        arguments = [config, checkpoint, '--format', 'torch_export', '--out', path]
        export.main([str(one) for one in arguments] + ['--shape', '32'])
        assert f'{path}: {size} -> {expected}' in capsys.readouterr().out
        x = torch.randn(size)
        with torch.no_grad():
            torch.testing.assert_close(run(path, x), model(x))
        torch.save({'state_dict': torch.nn.Linear(2, 2).state_dict()}, checkpoint)
        with pytest.raises(SystemExit, match='weights.pth does not fit the config'):
            export.main([str(one) for one in arguments])


def test_a_detector_is_refused(export):
    from mmengine.config import Config

    config = Config(dict(default_scope='mmdet', model={}))
    with pytest.raises(ValueError, match='a detector has an output for each level'):
        export.model_of(config, None, [64, 96])


def test_an_operator_that_onnx_lacks(export, tmp_path):
    needs(export, 'onnx')
    options = {'rational': True}  # a linear system of complex numbers
    block = export.block_of('CayleyNLBlock', options, SHAPES[2])
    with pytest.raises(ValueError, match='ONNX has no counterpart of aten') as error:
        export.export(block, SHAPES[2], 'onnx', tmp_path / 'block.onnx')
    assert 'CayleyNLBlock' in str(error.value)
    assert '--format torch_export' in str(error.value)
    assert not list(tmp_path.iterdir())
    check(export, block, SHAPES[2], tmp_path / 'block.pt2')


@pytest.mark.parametrize('factor', [1.001, float('nan')])
def test_a_file_that_computes_something_else(export, monkeypatch, tmp_path, factor):
    needs(export, 'torch_export')
    block = export.block_of('SNLBlock', {}, SHAPES[2])
    honest = export._run
    monkeypatch.setattr(export, '_run', lambda *given: honest(*given) * factor)
    out = tmp_path / 'block.pt2'
    out.write_text('an older export')
    with pytest.raises(ValueError, match='computes something else'):
        export.export(block, SHAPES[2], 'torch_export', out)
    assert out.read_text() == 'an older export'
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--block', 'NoBlock', '--shape', '1', '8', '4'], "no block 'NoBlock'"),
        (['--block', 'SNLBlock', '--shape', '32'], 'needs the whole --shape'),
        (
            ['--block', 'SNLBlock', '--shape', '1', '8', '4', '--out', 'block.pth'],
            'a file of onnx ends in .onnx',
        ),
        (
            ['--block', 'SNLBlock', '--shape', '1', '8', '4', '--options', '{"x": 1}'],
            "SNLBlock has no option 'x'",
        ),
        (['no/such/config.py'], 'no/such/config.py'),
    ],
)
def test_mistakes(export, arguments, message):
    with pytest.raises(SystemExit) as stop:
        export.main(arguments)
    assert str(stop.value.code).startswith('export.py: ')
    assert message in str(stop.value.code)


def test_an_old_torch(export, monkeypatch, tmp_path):
    block = export.block_of('SNLBlock', {}, SHAPES[2])
    monkeypatch.setattr(export.torch, '__version__', '2.1.2+cpu')
    with pytest.raises(ValueError, match='onnx needs torch>=2.6, but found 2.1.2'):
        export.export(block, SHAPES[2], 'onnx', tmp_path / 'block.onnx')
