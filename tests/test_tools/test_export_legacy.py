# Copyright (c) The nl_plugins authors. All rights reserved.
"""The exporter that mmdeploy calls, ``dynamo=False``: every block, sizes left open."""

import warnings

import pytest
import torch

pytest.importorskip('mmcv')
pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

from nl_plugins.blocks import BLOCKS  # noqa: E402


@pytest.mark.parametrize(
    'side', [8, 56]
)  # where the matrix pays, and where it does not
@pytest.mark.parametrize('name', BLOCKS)
def test_a_block_runs_at_other_sizes(name, side, tmp_path):
    torch.manual_seed(0)
    block = BLOCKS[name](16).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path / 'block.onnx'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            block,
            (torch.randn(1, 16, side, side),),
            path,
            dynamo=False,
            opset_version=17,
            input_names=['x'],
            dynamic_axes={'x': {0: 'batch', 2: 'height', 3: 'width'}},
        )
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for shape in ((1, 16, side, side), (2, 16, 12, 10)):
        x = torch.randn(shape)
        (found,) = session.run(None, {'x': x.numpy()})
        with torch.no_grad():
            expected = block(x)
        torch.testing.assert_close(
            torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4
        )
