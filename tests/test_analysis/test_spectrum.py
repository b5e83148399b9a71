# Copyright (c) The nl_plugins authors. All rights reserved.
"""Eigenvalues against a dense solver, responses against the formulas."""

import pytest
import torch

from nl_plugins.analysis import (
    Spectrum,
    channel_response,
    filter_response,
    filter_shape,
    graph_spectrum,
)
from nl_plugins.analysis.picture import draw_spectrum
from nl_plugins.blocks import BLOCKS
from nl_plugins.blocks.base import matrix
from nl_plugins.graph import SoftmaxAffinity, SymmetricAffinity, force


def features(size, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, size, width, generator=generator, dtype=torch.double)


def sorted_eigenvalues(matrix):
    return torch.linalg.eigvals(matrix).real.sort().values


def test_low_rank_eigenvalues_are_exact():
    affinity = SymmetricAffinity(features(50, 3, 0), features(50, 3, 1))
    found = graph_spectrum(affinity, sample=1)
    assert found.exact and len(found.values) == 7
    assert found.weights.sum().item() == pytest.approx(1)
    expected = sorted_eigenvalues(affinity.dense()[1])
    kept = torch.cat([found.values[:6], torch.zeros(44, dtype=torch.double)])
    torch.testing.assert_close(kept.sort().values, expected, atol=1e-9, rtol=0)
    assert expected.abs().max() <= 1 + 1e-9


def test_small_graphs_are_solved_densely():
    affinity = SoftmaxAffinity(features(20, 3, 0), features(20, 3, 1))
    found = graph_spectrum(affinity)
    expected = sorted_eigenvalues(affinity.dense()[0])
    torch.testing.assert_close(found.values.sort().values, expected)
    assert found.exact and found.values.max().item() == pytest.approx(1)


def test_large_graphs_are_never_built(monkeypatch):
    x = 3 * features(300, 4, 0)
    affinity = SoftmaxAffinity(x, x)
    dense = affinity.dense()[0]

    def forbidden(self):
        raise AssertionError('the matrix was built')

    monkeypatch.setattr(SoftmaxAffinity, 'dense', forbidden)
    monkeypatch.setattr(SoftmaxAffinity, '_dense', forbidden)
    with force('fast'):
        found = graph_spectrum(affinity, dense_limit=100, num_steps=20, num_probes=16)
    assert not found.exact and found.weights.sum().item() == pytest.approx(1)
    assert found.values.max().item() == pytest.approx(1, abs=1e-4)
    for power in (1, 2, 3):
        expected = torch.linalg.matrix_power(dense, power).trace() / 300
        moment = (found.values**power * found.weights).sum()
        assert moment.item() == pytest.approx(expected.item(), abs=0.02)


def test_pooled_keys_have_no_spectrum():
    affinity = SoftmaxAffinity(features(8, 2, 0), features(4, 2, 1))
    with pytest.raises(ValueError, match='sub_sample'):
        graph_spectrum(affinity)


def test_histogram_holds_every_share():
    found = graph_spectrum(SoftmaxAffinity(features(20, 3, 0), features(20, 3, 1)))
    shares, edges = found.histogram(bins=10)
    assert shares.sum().item() == pytest.approx(1) and len(edges) == 11
    assert shares[-1].item() >= 1 / 20 - 1e-9  # the eigenvalue 1 of a softmax


GRID = torch.linspace(-1, 1, 9)


def blocks_with_filter():
    torch.manual_seed(0)
    snl = BLOCKS['SNLBlock'](16)
    zeroth, first = matrix(snl.conv_out).chunk(2, dim=1)
    yield snl, [zeroth, snl.sign * first]
    chebyshev = BLOCKS['ChebyshevNLBlock'](16, order=3, stable=False)
    w = matrix(chebyshev.conv_out).split(chebyshev.width, dim=1)
    yield chebyshev, [w[0] - w[2], w[1] - 3 * w[3], 2 * w[2], 4 * w[3]]
    nl = BLOCKS['NLBlock'](16, zeros_init=False)
    weight = matrix(nl.conv_out)
    yield nl, [0 * weight, weight]
    dnl = BLOCKS['DNLBlock'](16, zeros_init=False)
    weight = matrix(dnl.conv_out)
    yield dnl, [0 * weight, weight]


@pytest.mark.parametrize('index', range(4))
def test_the_response_is_the_polynomial_of_the_filter(index):
    block, coefficients = list(blocks_with_filter())[index]
    found = filter_response(block, GRID)
    for value, gain in zip(GRID, found):
        expected = sum(c * value**k for k, c in enumerate(coefficients))
        assert gain.item() == pytest.approx(expected.norm().item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize('name', BLOCKS)
def test_every_block_has_a_response(name):
    block = BLOCKS[name](16)
    gains = filter_response(block, GRID)
    assert gains.shape == GRID.shape and (gains >= 0).all()
    assert torch.isfinite(gains).all()


def test_the_picture_shows_histogram_and_response():
    found = graph_spectrum(SymmetricAffinity(features(50, 3, 0), features(50, 3, 1)))
    picture = draw_spectrum(found, (GRID, GRID.abs()), 'a block')
    assert picture.shape[2] == 3 and picture.dtype.name == 'uint8'
    red, green, blue = (picture[..., c].astype(int) for c in range(3))
    assert ((red - blue) > 100).sum() > 100  # the curve
    assert ((blue - red) > 60).sum() > 300  # the bars
    bare = draw_spectrum(found)
    red, blue = bare[..., 0].astype(int), bare[..., 2].astype(int)
    assert ((red - blue) > 100).sum() == 0


@pytest.mark.parametrize('name', ['NLBlock', 'NSBlock', 'SNLBlock', 'ChebyshevNLBlock'])
def test_every_channel_has_its_own_curve(name):
    torch.manual_seed(0)
    block = BLOCKS[name](8).double()
    torch.nn.init.normal_(block.conv_out.conv.weight)
    eigenvalues = torch.linspace(-1, 1, 7, dtype=torch.double)
    found = channel_response(block, eigenvalues)
    parts = matrix(block.conv_out).chunk(getattr(block, 'num_terms', 1), dim=1)
    for value, curve in zip(eigenvalues, found):
        terms = dict(
            NLBlock=[value],
            NSBlock=[1 - value],
            SNLBlock=[1, value],
            ChebyshevNLBlock=[1, value, 2 * value**2 - 1],
        )[name]
        total = sum(term * part for term, part in zip(terms, parts))
        torch.testing.assert_close(curve, total.norm(dim=1))
    torch.testing.assert_close(filter_response(block, eigenvalues), found.norm(dim=1))


@pytest.mark.parametrize('name', ['ARMANLBlock', 'CayleyNLBlock'])
def test_recursive_and_rational_filters_by_channel(name):
    """Against the filter on a real graph, in its eigenvectors."""
    torch.manual_seed(0)
    options = dict(rational=True) if name == 'CayleyNLBlock' else dict(nonlinear=False)
    block = BLOCKS[name](8, **options).double()
    torch.nn.init.normal_(block.conv_out.conv.weight)
    affinity = SymmetricAffinity(features(12, 3, 0)[:1], features(12, 3, 1)[:1])
    eigenvalues, vectors = torch.linalg.eigh(affinity.dense()[0])
    found = channel_response(block, eigenvalues)
    for index in (0, 5, 11):
        signal = vectors[:, index].view(1, 12, 1)
        rows = [
            block.filter(
                affinity,
                signal * torch.eye(block.width, dtype=torch.double)[channel],
                block,
                matrix(block.conv_out),
            )
            for channel in range(block.width)
        ]
        gains = torch.stack([vectors[:, index] @ row[0] for row in rows]).norm(dim=0)
        torch.testing.assert_close(found[index], gains)


def test_filters_smooth_sharpen_or_pass():
    values = torch.tensor([1.0, 0.2, 0.0, 0.0], dtype=torch.double)
    spectrum = Spectrum(values, torch.full((4,), 0.25, dtype=torch.double), True)
    smooth = filter_shape(BLOCKS['NLBlock'](8, zeros_init=False).double(), spectrum)
    assert (smooth.smooth, smooth.sharpen, smooth.passing) == (1, 0, 0)
    torch.testing.assert_close(
        smooth.tilt, torch.full((8,), (1 - 0.3) / (1 + 0.3), dtype=torch.double)
    )
    assert filter_shape(BLOCKS['NSBlock'](8).double(), spectrum).sharpen == 1
    block = BLOCKS['SNLBlock'](8).double()
    with torch.no_grad():
        block.conv_out.conv.weight[:, block.width :] = 0  # W_1 = 0
    assert filter_shape(block, spectrum).passing == 1
