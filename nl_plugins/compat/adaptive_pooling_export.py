# Copyright (c) The nl_plugins authors. All rights reserved.
"""torch's ONNX exporter by tracing refuses adaptive pooling of an open size.

Pyramids of pools (``ANLBlock``, mmseg's ``ANNHead``) average to 3 x 3 or 6 x 6 bins,
whatever comes in. Such an average is a product with a matrix of the size that
arrives, made of operators that ONNX has.
"""

import torch

from .repair import Repair

# The first that has CastLike.
_OLDEST_OPSET = 15


def _bins(g, x, axis: int, number: int):
    """The matrix (number, length of ``axis``) whose rows average over a bin each."""
    length = g.op('Gather', g.op('Shape', x), _constant(g, axis), axis_i=0)
    positions = g.op('Range', _constant(g, 0), length, _constant(g, 1))
    first = _constant(g, [[i] for i in range(number)])
    one, bins = _constant(g, 1), _constant(g, number)
    start = g.op('Div', g.op('Mul', first, length), bins)
    end = g.op('Mul', g.op('Add', first, one), length)
    end = g.op('Div', g.op('Add', end, _constant(g, number - 1)), bins)
    inside = g.op(
        'And', g.op('GreaterOrEqual', positions, start), g.op('Less', positions, end)
    )
    count = g.op('CastLike', g.op('Sub', end, start), x)
    return g.op('Div', g.op('CastLike', inside, x), count)


def _constant(g, value):
    return g.op('Constant', value_t=torch.tensor(value))


def _symbolic(g, x, output_size):
    from torch.onnx import symbolic_helper

    numbers = symbolic_helper._parse_arg(output_size, 'is')
    sizes = symbolic_helper._get_tensor_sizes(x)
    known = sizes[-2:] if sizes else [None, None]
    if tuple(numbers) == (1, 1):
        return g.op('GlobalAveragePool', x)
    if None not in known and not any(s % n for s, n in zip(known, numbers)):
        kernel = [size // number for size, number in zip(known, numbers)]
        return g.op('AveragePool', x, kernel_shape_i=kernel, strides_i=kernel)
    rows, columns = (_bins(g, x, axis, n) for axis, n in zip((2, 3), numbers))
    across = g.op('MatMul', x, g.op('Transpose', columns, perm_i=[1, 0]))
    return g.op('MatMul', rows, across)


def needed() -> bool:
    return True  # in every torch that has this exporter


def apply(module) -> None:
    module.register_custom_op_symbolic(
        'aten::adaptive_avg_pool2d', _symbolic, _OLDEST_OPSET
    )


REPAIR = Repair(
    name='adaptive_pooling_export',
    symptom='torch.onnx.export(dynamo=False) refuses adaptive pooling of open sizes',
    remedy='it is written as products with matrices of bins',
    upstream='torch/onnx/_internal/torchscript_exporter/symbolic_opset9.py',
    needed=needed,
    apply=apply,
    modules=(
        'torch.onnx._internal.torchscript_exporter.utils',
        # Before torch 2.9.
        'torch.onnx.utils',
    ),
)
