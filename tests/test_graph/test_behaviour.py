# Copyright (c) The nl_plugins authors. All rights reserved.
"""Precision, memory, composition with torch, and errors of the graph core."""

import math

import pytest
import torch

from nl_plugins import graph
from nl_plugins.analysis.memory import peak_memory
from nl_plugins.compat.repair import release
from nl_plugins.graph.filters import reused
from nl_plugins.graph.plan import case_of, decisions
from nl_plugins.graph.strategies import sorted as by_sorting

from .cases import CASES, grid_of, leaves

BY_NAME = {case.name: case for case in CASES}
ALL = pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
captures = pytest.mark.skipif(
    release(torch.__version__) < (2, 2), reason='torch 2.1 cannot capture the operators'
)


def relative_error(got, exact):
    return ((got.double() - exact).norm() / exact.norm().clamp_min(1e-300)).item()


@ALL
def test_float32_error_stays_within_four_times_the_dense_one(case):
    positions = 2048 if case.quadratic else 8192
    inputs = leaves(
        case, batch=1, queries=positions, keys=positions, width=32, depth=32
    )
    grid = grid_of(positions)

    def run(formulation, dtype):
        args = [x.detach().to(dtype).requires_grad_() for x in inputs]
        with graph.force(formulation):
            out = case.build(*args[:2], grid) @ args[2]
        out.square().sum().backward()
        return [out.detach(), *(x.grad for x in args if x.grad is not None)]

    # In float64 either form is exact enough to be the reference for float32.
    exact = run('fast', torch.float64)
    fast, dense = run('fast', torch.float32), run('dense', torch.float32)
    for got, by_matrix, reference in zip(fast, dense, exact):
        allowed = max(4 * relative_error(by_matrix, reference), 1e-6)
        assert relative_error(got, reference) <= allowed


def test_concat_keeps_its_digits_far_from_zero():
    a, b = 100 + torch.randn(1, 4096), torch.randn(1, 4096) - 100
    values = torch.randn(1, 4096, 4)
    exact = graph.ConcatAffinity(a.double(), b.double()) @ values.double()
    assert relative_error(graph.ConcatAffinity(a, b) @ values, exact) < 2e-5
    with graph.force('dense'):
        dense = relative_error(graph.ConcatAffinity(a, b) @ values, exact)
    assert relative_error(graph.ConcatAffinity(a, b) @ values, exact) <= 4 * dense


@ALL
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_in_float32(case, dtype):
    query, key, values = (x.detach() for x in leaves(case, queries=64, keys=64))
    scale = 300.0 if case.name != 'compact_rbf' else 3.0  # |q·k| up to 1e5 and more
    half = [(x * s).to(dtype) for x, s in zip((query, key, values), (scale, scale, 1))]
    grid = grid_of(64)
    out = case.build(*half[:2], grid) @ half[2]
    exact = case.build(*(x.double() for x in half[:2]), grid) @ half[2].double()
    assert out.dtype == dtype
    limit = torch.finfo(dtype).max
    fits = exact.abs() < limit
    assert torch.isfinite(out[fits]).all()
    error = (out.double() - exact)[fits].abs().max() / exact[fits].abs().max()
    assert error < 8 * torch.finfo(dtype).eps


@ALL
def test_autocast_does_not_lower_the_precision_of_an_affinity(case):
    inputs = [x.float() for x in leaves(case)]
    plain = case.build(*inputs[:2], grid_of(12)) @ inputs[2]
    with torch.autocast(inputs[0].device.type, torch.bfloat16):
        cast = case.build(*inputs[:2], grid_of(12)) @ inputs[2]
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, plain)


def memory_exponent(case, small, large, width, depth):
    def step(positions):
        inputs = leaves(
            case,
            batch=1,
            queries=positions,
            keys=positions,
            width=width,
            depth=depth,
            dtype=torch.float32,
        )
        affinity = case.build(*inputs[:2], grid_of(positions))
        device = str(inputs[2].device)
        return peak_memory(lambda: (affinity @ inputs[2]).sum().backward(), device)

    with graph.force('auto'):
        ratio = step(large) / step(small)
    return math.log(ratio) / math.log(large / small)


@ALL
def test_memory_grows_linearly(case):
    # Time of the softmax kinds grows with N², so they stop earlier.
    small, large = (1024, 4096) if case.quadratic else (2048, 16384)
    assert memory_exponent(case, small, large, width=8, depth=16) <= 1.1


@pytest.mark.parametrize(
    'name, width, depth', [('softmax', 32, 48), ('softmax', 2048, 64), ('relu', 64, 64)]
)
def test_memory_is_linear_at_widths_no_fused_kernel_takes(name, width, depth):
    case = BY_NAME[name]
    positions = 4096
    inputs = leaves(
        case,
        batch=1,
        queries=positions,
        keys=positions,
        width=width,
        depth=depth,
        dtype=torch.float32,
    )
    affinity = case.build(*inputs[:2], grid_of(positions))
    with graph.force('fast'), torch.no_grad():
        peak = peak_memory(lambda: affinity @ inputs[2], str(inputs[2].device))
    assert peak < 4 * positions * positions  # one byte less than one float32 matrix


def test_softmax_uses_the_fused_kernel():
    attention = pytest.importorskip('torch.nn.attention', reason='needs torch>=2.3')
    SDPBackend, sdpa_kernel = attention.SDPBackend, attention.sdpa_kernel

    query, key, values = (
        x.float() for x in leaves(BY_NAME['softmax'], width=8, depth=8)
    )
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), graph.force('fused'), torch.no_grad():
        graph.SoftmaxAffinity(query, key) @ values


@captures
@ALL
def test_compiles_as_one_graph(case):
    inputs = [x.detach().float() for x in leaves(case, queries=12, keys=12)]

    def function(query, key, values):
        return case.build(query, key, (3, 4)).apply(values)

    for formulation in ('fast', 'auto'):
        torch._dynamo.reset()
        with graph.force(formulation):
            compiled = torch.compile(function, fullgraph=True, backend='aot_eager')
            args = [x.clone().requires_grad_() for x in inputs]
            twins = [x.clone().requires_grad_() for x in inputs]
            got, expected = compiled(*args), function(*twins)
            torch.testing.assert_close(got, expected)
            got.sum().backward()
            expected.sum().backward()
        for arg, twin in zip(args, twins):
            torch.testing.assert_close(arg.grad, twin.grad)


class Applied(torch.nn.Module):
    def __init__(self, case):
        super().__init__()
        self.case = case

    def forward(self, query, key, values):
        return self.case.build(query, key, (3, 4)) @ values


@captures
@ALL
def test_exports(case):
    inputs = tuple(x.detach().float() for x in leaves(case, queries=12, keys=12))
    module = Applied(case)
    with graph.force('fast'):
        program = torch.export.export(module, inputs)
        torch.testing.assert_close(program.module()(*inputs), module(*inputs))


@ALL
def test_vmap_over_the_batch(case):
    inputs = [x.detach() for x in leaves(case, batch=3, queries=12, keys=12)]

    def single(query, key, values):
        args = (x.unsqueeze(0) for x in (query, key, values))
        query, key, values = args
        return (case.build(query, key, (3, 4)) @ values).squeeze(0)

    with graph.force('fast'):
        got = torch.func.vmap(single)(*inputs)
        expected = case.build(*inputs[:2], (3, 4)) @ inputs[2]
    torch.testing.assert_close(got, expected)


@ALL
def test_runs_in_deterministic_mode_and_repeats_itself(case):
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for _ in range(2):
            query, key, values = leaves(case, dtype=torch.float32)
            with graph.force('fast'):
                out = case.build(query, key, grid_of(12)) @ values
            out.square().sum().backward()
            results.append((out, query.grad, values.grad))
    finally:
        torch.use_deterministic_algorithms(False)
    for first, second in zip(*results):
        assert first is second is None or torch.equal(first, second)


@ALL
def test_channels_last_callers(case):
    query, key, values = (
        x.detach().contiguous() for x in leaves(case, queries=12, keys=12)
    )
    got = case.build(query, key, (3, 4)) @ values
    query, key, values = (x.mT.contiguous().mT for x in (query, key, values))
    torch.testing.assert_close(got, case.build(query, key, (3, 4)) @ values)


def taken(affinity, values, **options):
    """The name of the strategy that is taken."""
    with decisions() as made, torch.set_grad_enabled(options.pop('grad', True)):
        affinity.apply(values, **options)
    ((_, decision),) = made
    return decision.taken


@pytest.mark.parametrize('case', [c for c in CASES if c.quadratic and c.name != 'sum'])
def test_never_a_matrix_for_many_keys(case):
    query, key, values = (x.to('meta') for x in leaves(case, queries=2500, keys=2500))
    affinity = case.build(query, key, (50, 50))
    for grad in (True, False):
        assert taken(affinity, values, grad=grad) != 'matrix'
        case_ = case_of(affinity, values)
        assert 'linear' in affinity.strategies[-1].refuses(case_)


def test_a_small_map_is_a_matrix_and_a_large_one_is_not():
    def name(batch, positions, width):
        x = torch.rand(batch, positions, width, device='meta')
        return taken(graph.SymmetricAffinity(x, x + 1), x)

    assert name(1, 4, 16) == 'matrix'
    assert name(2, 4096, 32) == 'factors'


def test_a_decision_is_explained_and_remembered():
    query, key, values = leaves(BY_NAME['softmax'])
    affinity = graph.SoftmaxAffinity(query, key)
    with decisions() as made:
        affinity @ values
        affinity @ values
    (_, first), (_, second) = made
    assert first == second
    text = str(first)
    assert 'row_tiles' in text and 'ms' in text
    assert 'refused: its backward pass loses digits' in text
    assert len(text.splitlines()) == 1 + len(affinity.strategies)


def test_repeated_use_makes_the_matrix_worth_building():
    def is_built(positions, times):
        nodes = torch.rand(8, positions, 16)
        affinity = graph.SymmetricAffinity(nodes, nodes)
        return reused(affinity, nodes, times) is not affinity

    assert is_built(16, 8)
    assert not is_built(16, 1)
    assert not is_built(2500, 8)
    with graph.force('fast'):
        assert not is_built(16, 8)


SATURATED = [
    ('softmax_square', 700, 8, 1e3),
    ('softmax', 300, 8, 1e3),
    ('criss_cross', 336, 8, 1e2),
    ('softmax_square', 720, 8, 1e4),
    ('softmax', 300, 8, 1e8),
    ('criss_cross', 336, 8, 1e5),
]


@pytest.mark.parametrize('name, positions, width, scale', SATURATED)
def test_gradients_of_saturated_weights_keep_their_digits(
    name, positions, width, scale
):
    case = BY_NAME[name]
    inputs = leaves(
        case, batch=1, queries=positions, keys=positions, width=width, scale=scale
    )
    grid = grid_of(positions)

    def run(way, dtype):
        args = [x.detach().to(dtype).requires_grad_() for x in inputs]
        with graph.force(way):
            out = case.build(*args[:2], grid) @ args[2]
        out.square().sum().backward()
        return [out.detach(), *(x.grad for x in args if x.grad is not None)]

    exact = run('dense', torch.float64)
    dense = run('dense', torch.float32)
    for way in [s.name for s in case.build(*inputs[:2], grid).strategies]:
        if way in ('fused', 'matrix'):
            continue
        for got, by_matrix, reference in zip(
            run(way, torch.float32), dense, exact, strict=True
        ):
            assert got.isfinite().all()
            allowed = max(4 * relative_error(by_matrix, reference), 1e-5)
            assert relative_error(got, reference) <= allowed


@pytest.mark.parametrize('name', ['softmax', 'softmax_square', 'criss_cross'])
def test_no_weight_is_below_the_smallest_normal_number(name):
    case = BY_NAME[name]
    query, key, values = (
        x.detach().float() for x in leaves(case, queries=36, keys=36, scale=9.0)
    )
    affinity = case.build(query, key, (6, 6))
    # Of unit vectors as values the result is the weights themselves.
    eye = torch.eye(36).expand(2, -1, -1)
    for way in ('fast', 'dense'):
        with graph.force(way):
            weights = affinity @ eye
        assert not ((weights > 0) & (weights < 1.2e-38)).any()


def test_many_rows_are_sorted_like_few():
    rows = torch.randn(128, 256)
    rows[:, ::3] = rows[:, 1:2]
    rows[0, :4] = torch.tensor([0.0, -0.0, math.inf, -math.inf])
    assert by_sorting._radix_sorts(rows)
    ordered, order = by_sorting._sort(rows)
    assert torch.equal(ordered, rows.sort(dim=1, descending=True)[0])
    assert torch.equal(ordered, rows.flatten()[order])
    assert torch.equal(order // 256, torch.arange(128)[:, None].expand(128, 256))


def test_force_restores_and_refuses_other_names():
    with pytest.raises(RuntimeError), graph.force('dense'):
        raise RuntimeError
    with pytest.raises(ValueError, match="one of .*'fast'.* but got 'quick'"):
        with graph.force('quick'):
            pass
    affinity = graph.SoftmaxAffinity(x, y)
    with pytest.raises(ValueError, match='fused was forced, but refuses: on a CPU'):
        with graph.force('fused'), torch.no_grad():
            affinity @ torch.rand(2, 5, 3)
    with graph.force('sorted'):  # which another affinity has
        affinity @ y


x, y = torch.rand(2, 6, 4), torch.rand(2, 5, 4)


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: graph.SoftmaxAffinity(x, y[:1]), r'one batch size .*\(2, 6, 4\).*'),
        (lambda: graph.DotAffinity(x, y[..., :2]), r'width.*\(2, 5, 2\)'),
        (lambda: graph.DotAffinity(x[0], y), r'query \(B, N, C\)'),
        (lambda: graph.DotAffinity(x, y.to('meta')), 'one device'),
        (lambda: graph.SymmetricAffinity(x, y), 'same positions'),
        (
            lambda: graph.CrissCrossAffinity(x, x, (2, 2)),
            r'grid \(2, 2\).* 6 positions',
        ),
        (lambda: graph.CrissCrossAffinity(x, y, (2, 3)), 'same positions'),
        (lambda: graph.ConcatAffinity(x, y), r'a \(B, N\)'),
        (lambda: graph.CompactAffinity(x, y), 'scalar nodes'),
        (lambda: graph.CompactAffinity(x[..., :1], y[..., :1], ()), 'coefficient'),
        (lambda: graph.UnaryAffinity(x, 3), r'weights \(B, M\)'),
        (lambda: graph.DotAffinity(x, y) @ x, r'applies to values \(2, 5, channels\)'),
        (lambda: graph.DotAffinity(x, y) @ y.to('meta'), 'values are on meta'),
        (
            lambda: graph.DotAffinity(x, y).apply(y, x[0, :, :3]),
            r'weight .*\(out_channels, 4',
        ),
        (lambda: graph.DotAffinity(x, x) + graph.DotAffinity(x, y), 'one shape'),
        (lambda: graph.chebyshev(graph.DotAffinity(x, x), x, [None]), 'not None'),
        (lambda: graph.chebyshev(graph.DotAffinity(x, y), y, [None, None, x]), 'N, N'),
        (lambda: graph.cayley(graph.DotAffinity(x, x), x, zoom=0), 'zoom > 0'),
    ],
)
def test_errors_are_one_clear_sentence(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert '\n' not in str(caught.value)


def test_negative_features_are_named_in_debug_only():
    graph.SymmetricAffinity(x, -x) @ x
    with graph.debug(), pytest.raises(ValueError, match='non-negative'):
        graph.SymmetricAffinity(x, -x)
