# Copyright (c) The nl_plugins authors. All rights reserved.
"""The applied form of every affinity and filter equals its dense form."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nl_plugins import graph
from nl_plugins.graph import plan
from nl_plugins.graph.filters import solve
from nl_plugins.graph.lazy import LinearMap
from nl_plugins.graph.strategies import tiles

from .cases import CASES, grid_of, leaves

EXACT = dict(rtol=1e-11, atol=1e-11)


@pytest.fixture(params=[None, (1, 2), (1, 100), (2, 2)], autouse=True)
def tile_sizes(request, monkeypatch):
    """Samples and rows a tile: as they are, and several tiles: of rows, of samples, and
    of rows of all samples, as an open batch has them."""
    if request.param is not None:
        monkeypatch.setattr(tiles, 'tile_sizes', lambda *_: request.param)


def value_and_gradients(function, inputs):
    """The result, and d(result)/d(log of the inputs' scale): free of that scale."""
    out = function(*inputs)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    loss = (out * weights).sum() / out.shape[-1] ** 0.5
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    return out, [
        torch.zeros_like(x) if g is None else g * (x.detach().abs().max() or 1)
        for x, g in zip(inputs, grads)
    ]


def assert_same(fast, dense, **tolerance):
    torch.testing.assert_close(fast[0], dense[0], **tolerance)
    for got, expected in zip(fast[1], dense[1]):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(got / scale, expected / scale, **tolerance)


def check(case, inputs, weight=None, **tolerance):
    grid = grid_of(inputs[0].shape[1])

    def applied(query, key, values):
        return case.build(query, key, grid).apply(values, weight)

    def by_matrix(query, key, values):
        out = case.build(query, key, grid).dense() @ values
        return out if weight is None else out @ weight.mT

    with graph.force('fast'):
        fast = value_and_gradients(applied, inputs)
    assert_same(fast, value_and_gradients(by_matrix, inputs), **(tolerance or EXACT))


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
@pytest.mark.parametrize('weighted', [False, True], ids=['plain', 'weighted'])
def test_applied_equals_dense(case, weighted):
    weight = torch.randn(3, 6, dtype=torch.float64) if weighted else None
    check(case, leaves(case), weight)


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
@pytest.mark.parametrize('formulation', ['fast', 'dense'])
@pytest.mark.parametrize('rows', ['one', 'all'])
def test_the_sum_joins_the_product(case, formulation, rows):
    query, key, values = (x.detach() for x in leaves(case))
    affinity = case.build(query, key, grid_of(query.shape[1]))
    batch, queries, _ = affinity.shape
    weight = torch.randn(3, values.shape[2], dtype=torch.float64)
    shape = (batch, 1 if rows == 'one' else queries, 3)
    plus = torch.randn(shape, dtype=torch.float64)
    expected = affinity.dense() @ values @ weight.mT + plus
    with graph.force(formulation):
        torch.testing.assert_close(affinity.apply(values, weight, plus), expected)


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_gradcheck(case):
    query, key, values = leaves(case, queries=6, keys=4, width=3, depth=2)

    def function(*inputs):
        return case.build(*inputs[:2], grid_of(6)) @ inputs[2]

    with graph.force('fast'):
        assert torch.autograd.gradcheck(function, (query, key, values))


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_shape_and_scale(case, data):
    size = st.one_of(st.just(1), st.integers(1, 30))
    inputs = leaves(
        case,
        batch=data.draw(st.integers(1, 3)),
        queries=data.draw(size),
        keys=data.draw(size),
        width=data.draw(st.integers(1, 9)),
        depth=data.draw(st.sampled_from([1, 2, 7, 64, 600])),
        scale=data.draw(st.sampled_from([0.0, 1e-3, 1.0, 3.0])),
        seed=data.draw(st.integers(0, 99)),
    )
    check(case, inputs)


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_ties_and_zeros(case):
    query, key, values = leaves(case, queries=12, keys=12)
    with torch.no_grad():
        query[:, 3:9] = query[:, 3:4]
        key[:, 2:7] = key[:, 2:3]
        query[:, 10], key[:, 10] = -1.0, -1.0  # degree zero after the relu
        key[:, 11], query[:, 11] = 0.0, 0.0
    check(case, (query, key, values))


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_rows_are_rows_of_the_matrix(case):
    query, key, _ = leaves(case)
    affinity = case.build(query, key, grid_of(12))
    index = [3, 0, 3, 11]
    torch.testing.assert_close(affinity.rows(index), affinity.dense()[:, index])
    assert affinity.dense().shape == affinity.shape


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_transpose_where_defined(case):
    query, key, _ = leaves(case)
    affinity = case.build(query, key, grid_of(12))
    try:
        transposed = affinity.transpose()
    except TypeError as error:
        assert 'transpose of' in str(error)
        return
    torch.testing.assert_close(transposed.dense(), affinity.dense().mT)


@pytest.mark.parametrize('biased', [(), (0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize('width', [4, 256, 258])
def test_dot_product_of_linear_maps(biased, width):
    x = leaves(CASES[0], queries=9, width=width)[0]
    draw = partial(
        torch.randn, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    maps = [
        (draw(5, width) / width**0.5, draw(5) if index in biased else None)
        for index in range(3)
    ]
    weight = draw(3, 5)

    def stepwise(x):
        query, key, values = (torch.nn.functional.linear(x, *pair) for pair in maps)
        return (query @ key.mT / 9) @ values @ weight.mT

    def folded(x):
        joint = []
        query, key, values = (LinearMap(x.mT, *pair, joint) for pair in maps)
        with graph.force('gram'):
            return graph.DotAffinity(query, key).apply(values, weight)

    fast = value_and_gradients(folded, [x])
    assert_same(fast, value_and_gradients(stepwise, [x]), **EXACT)


def ways(case, needs_gradients=True):
    """Every strategy of a case's affinity that takes it, with its name."""
    inputs = leaves(case, width=6)  # as wide as the values: fused attention takes it
    affinity = case.build(*inputs[:2], grid_of(12))
    with torch.set_grad_enabled(needs_gradients):
        sizes = plan.case_of(affinity, inputs[2])
    return [s.name for s in affinity.strategies if s.refuses(sizes) is None]


@pytest.mark.parametrize(
    'case, name',
    [(case, name) for case in CASES for name in ways(case)],
    ids=lambda each: getattr(each, 'name', each),
)
def test_every_strategy_equals_the_matrix(case, name):
    inputs = leaves(case, width=6)
    grid = grid_of(12)
    weight = torch.randn(3, 6, dtype=torch.float64)

    def applied(query, key, values):
        return case.build(query, key, grid).apply(values, weight)

    def by_matrix(query, key, values):
        return case.build(query, key, grid).dense() @ values @ weight.mT

    with graph.force(name):
        got = value_and_gradients(applied, inputs)
    assert_same(got, value_and_gradients(by_matrix, inputs), **EXACT)


@pytest.mark.parametrize(
    'case, name',
    [(case, name) for case in CASES for name in ways(case)],
    ids=lambda each: getattr(each, 'name', each),
)
def test_second_derivatives_equal_those_of_the_matrix(case, name):
    """Of what the gradient penalties of a residual block ask: d|d loss/d x|² / d x."""
    inputs = leaves(case, width=6)

    def second(build):
        # A second path to each, as the residual sum is.
        out = build(*inputs) + sum(x.sum() for x in inputs)
        first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
        penalty = sum(g.square().sum() for g in first)
        return [g.detach() for g in first], torch.autograd.grad(penalty, inputs)

    def applied(query, key, values):
        return case.build(query, key, grid_of(12)).apply(values)

    def by_matrix(query, key, values):
        return case.build(query, key, grid_of(12)).dense() @ values

    with graph.force(name):
        found = second(applied)
    for got, expected in zip(found, second(by_matrix)):
        for one, other in zip(got, expected):
            scale = max(1.0, other.abs().max().item())
            torch.testing.assert_close(one / scale, other / scale, **EXACT)


@pytest.mark.parametrize(
    'case, name',
    [(case, name) for case in CASES for name in ways(case, False)],
    ids=lambda each: getattr(each, 'name', each),
)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_every_strategy_is_linear_and_has_its_adjoint(case, name, data):
    """``<A v, w> = <v, Aᵀ w>`` and ``A (v + 2 u) = A v + 2 A u``."""
    queries = data.draw(st.integers(1, 12))
    query, key, values = (
        x.detach()
        for x in leaves(
            case,
            queries=queries,
            keys=data.draw(st.integers(1, 12)),
            width=6,
            seed=data.draw(st.integers(0, 99)),
        )
    )
    affinity = case.build(query, key, grid_of(queries))
    other = torch.randn_like(values)
    probe = torch.randn(2, queries, 6, dtype=torch.float64)
    with graph.force(name), torch.no_grad():
        out, both = affinity @ values, affinity @ (values + 2 * other)
        adjoint = affinity.dense().mT @ probe
        torch.testing.assert_close((out * probe).sum(), (values * adjoint).sum())
        torch.testing.assert_close(both, out + 2 * (affinity @ other))


@pytest.mark.parametrize('symmetric', [True, False])
def test_features_taken_over_without_gradients(symmetric):
    features = torch.rand(2, 12, 6, dtype=torch.float64)
    values = torch.rand(2, 12, 3, dtype=torch.float64)
    expected = graph.SymmetricAffinity(*features.chunk(2, dim=-1), symmetric).dense()
    with torch.no_grad():
        affinity = graph.SymmetricAffinity.from_features(features.clone(), symmetric)
        torch.testing.assert_close(affinity @ values, expected @ values)
        torch.testing.assert_close(affinity @ values, expected @ values)
        torch.testing.assert_close(affinity.dense(), expected)
        torch.testing.assert_close(affinity.rows([3]), expected[:, [3]])
    wanted = features.clone().requires_grad_()
    affinity = graph.SymmetricAffinity.from_features(wanted, symmetric)
    with torch.no_grad():
        affinity.rows([3])
    assert torch.equal(wanted, features)


def test_symmetric_spectrum_is_in_the_unit_interval():
    query, key, _ = leaves(CASES[5], queries=20)
    affinity = graph.SymmetricAffinity(query.relu(), key.relu())
    eigenvalues = torch.linalg.eigvalsh(affinity.dense())
    assert eigenvalues.max() <= 1 + 1e-12
    assert eigenvalues.min() >= -1 - 1e-12
    torch.testing.assert_close(eigenvalues[:, -1], torch.ones(2).double())


def symmetric(query, key):
    return graph.SymmetricAffinity(query.relu(), key.relu())


def softmax_affinity(query, key):
    return graph.SoftmaxAffinity(query, key)


def dot_affinity(query, key):
    return graph.DotAffinity(query, key)


@pytest.mark.parametrize('build', [symmetric, dot_affinity, softmax_affinity])
@pytest.mark.parametrize('order', [0, 1, 2, 4])
@pytest.mark.parametrize('formulation', ['fast', 'dense', 'auto'])
def test_chebyshev(build, order, formulation):
    query, key, values = leaves(CASES[5], queries=9)
    weights = [torch.randn(4, 6, dtype=torch.float64) for _ in range(order + 1)]
    if order == 4:
        weights[1] = None

    def applied(query, key, values):
        return graph.chebyshev(build(query, key), values, weights)

    def by_matrix(query, key, values):
        matrix = build(query, key).dense()
        eye = torch.eye(9, dtype=torch.float64).expand_as(matrix)
        terms = [eye, matrix]
        for _ in range(order):
            terms.append(2 * matrix @ terms[-1] - terms[-2])
        return sum(
            term @ values @ weight.mT
            for term, weight in zip(terms, weights)
            if weight is not None
        )

    with graph.force(formulation):
        actual = value_and_gradients(applied, (query, key, values))
    assert_same(actual, value_and_gradients(by_matrix, (query, key, values)), **EXACT)


def test_laplacian():
    query, key, values = leaves(CASES[5], queries=9)
    affinity = symmetric(query, key)
    eye = torch.eye(9, dtype=torch.float64)
    torch.testing.assert_close(
        graph.laplacian(affinity, values), (eye - affinity.dense()) @ values
    )


@pytest.mark.parametrize('activation', [None, torch.relu])
def test_arma(activation):
    query, key, values = leaves(CASES[5], queries=9)
    recurrent, skip = torch.randn(2, 6, 6, dtype=torch.float64)

    def applied(query, key, values):
        affinity = symmetric(query, key)
        return graph.arma(affinity, values, recurrent, skip, 3, activation)

    def by_matrix(query, key, values):
        matrix, hidden = symmetric(query, key).dense(), values
        for _ in range(3):
            hidden = matrix @ hidden @ recurrent.mT + values @ skip.mT
            hidden = hidden if activation is None else activation(hidden)
        return hidden

    with graph.force('fast'):
        fast = value_and_gradients(applied, (query, key, values))
    assert_same(fast, value_and_gradients(by_matrix, (query, key, values)), **EXACT)


@pytest.mark.parametrize(
    'build, zoom',
    [
        (symmetric, 0.3),
        (symmetric, 2.5),
        (softmax_affinity, 0.3),
        (softmax_affinity, 1),
    ],
)
def test_rational_cayley(build, zoom):
    query, key, values = leaves(CASES[5], queries=9)

    def applied(query, key, values):
        terms = graph.cayley(build(query, key), values, order=2, zoom=zoom)
        return torch.cat(terms, -1)

    def by_matrix(query, key, values):
        matrix = build(query, key).dense()
        eye = torch.eye(9, dtype=torch.complex128)
        scaled = zoom * (eye - matrix)
        transform = (scaled - 1j * eye) @ torch.linalg.inv(scaled + 1j * eye)
        signal, terms = values.to(torch.complex128), [values]
        for _ in range(2):
            signal = transform @ signal
            terms += [signal.real, signal.imag]
        return torch.cat(terms, -1)

    with graph.force('fast'):
        fast = value_and_gradients(applied, (query, key, values))
    assert_same(fast, value_and_gradients(by_matrix, (query, key, values)), **EXACT)


two_threads = pytest.mark.parametrize('threads', [2], indirect=True)


@two_threads
@pytest.mark.parametrize('dtype', [torch.float64, torch.complex128])
def test_batches_of_large_systems_are_solved(threads, dtype):
    matrix = torch.randn(3, 200, 200, dtype=dtype)
    right = torch.randn(3, 200, 4, dtype=dtype)
    torch.testing.assert_close(matrix @ solve(matrix, right), right)


@two_threads
def test_rational_cayley_of_high_rank(threads):
    query, key, values = leaves(CASES[5], queries=200, width=80)
    affinity = symmetric(query, key)
    with graph.force('fast'):
        fast = graph.cayley(affinity, values, zoom=2.5)
    with graph.force('dense'):
        dense = graph.cayley(affinity, values, zoom=2.5)
    torch.testing.assert_close(torch.cat(fast, -1), torch.cat(dense, -1), **EXACT)


def test_cayley_is_unitary_on_a_symmetric_graph():
    query, key, values = leaves(CASES[5], queries=9)
    _, real, imaginary = graph.cayley(symmetric(query, key), values)
    norm = (real.square() + imaginary.square()).sum(1)
    torch.testing.assert_close(norm, values.square().sum(1))


def test_chebyshev_terms_follow_the_cosine():
    query, key, _ = leaves(CASES[5], queries=9)
    affinity = symmetric(query.detach(), key.detach())
    values, vectors = torch.linalg.eigh(affinity.dense())
    eye = torch.eye(9, dtype=torch.float64)
    term = graph.chebyshev(affinity, vectors, [None, None, None, eye])
    cosine = torch.cos(3 * torch.acos(values.clamp(-1, 1))).detach()
    torch.testing.assert_close(term, vectors * cosine.unsqueeze(1), rtol=0, atol=1e-7)
    assert math.isclose(cosine[0, -1], 1, abs_tol=1e-6)
