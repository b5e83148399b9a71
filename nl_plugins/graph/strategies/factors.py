# Copyright (c) The nl_plugins authors. All rights reserved.
"""``A = L Rᵀ`` by its factors: nothing of size N x M, and time linear in N."""

from __future__ import annotations

import torch
from torch import Tensor

from ..lazy import LinearMap, Map, as_tensor, wants_rows, without_bias
from ..machine import Machine
from ..plan import Case, Cost, Strategy
from ..precision import at_least_float32, operand
from ..products import is_row_major, mix, product, transposed
from .costs import cached, maps, pick, products


def _factors(case: Case) -> Cost:
    """Of L and R themselves: normalisation, in a few passes over them."""
    size = case.batch * case.queries * case.rank * case.itemsize
    return Cost(0, ((size, pick(case, 3, 9)),), pick(case, 5, 14))


def _thin(case: Case, width: int, depth: int) -> Cost:
    """Of one product of a map (B, N, width) with a matrix (B, width, depth)."""
    positions = case.batch * case.queries
    size = positions * (width + depth) * case.itemsize
    return Cost(
        positions * width * depth * products(case),
        ((size, products(case)),),
        pick(case, 1, 3),
    )


class Factors(Strategy):
    """``A v = L (Rᵀ v)``; the output weight joins the small context Rᵀ v."""

    name = 'factors'
    traceable = True

    def cost(self, case: Case, machine: Machine) -> Cost:
        rank, depth = case.rank, case.depth
        context, back = _thin(case, depth, rank), _thin(case, rank, depth)
        total = _factors(case).and_(maps(case))
        if case.use == 'solve':  # the identity of Woodbury: r x r, complex
            square = _thin(case, rank, rank)
            solve = Cost(4 * case.batch * rank * rank * (rank + 2 * depth))
            return total.and_(square, solve, context.times(2), back.times(2))
        small = case.batch * rank * depth * case.depth_out
        return total.and_(
            context.and_(back).times(case.times - 1),
            context,
            Cost(small * products(case), (), pick(case, 1, 4)),
            _thin(case, rank, case.depth_out),
        )

    def run(self, affinity, values: Map, weight: Tensor | None, plus: Tensor | None):
        rows = wants_rows(values)
        context = affinity.context(operand(as_tensor(values)))
        context = mix(context, weight, rows=True)
        return product(affinity.left, context, plus, rows=rows)


class DotFactors(Factors):
    """The same of ``q kᵀ``; biases of linear q and v stay out of sums over positions.

    A sum of nearly equal terms fills with its rounding, and the product with the query
    may cancel what is no rounding.
    """

    def run(self, affinity, values: Map, weight: Tensor | None, plus: Tensor | None):
        rows = wants_rows(values)
        query, of_query = without_bias(affinity.query)
        values, of_values = without_bias(values)
        context = affinity.context(operand(as_tensor(values)))
        if of_values is not None:
            total = at_least_float32(as_tensor(affinity.key)).sum(1) * affinity.scale
            context = context + total.unsqueeze(-1) * of_values
        context = mix(context, weight, rows=True)
        if of_query is not None:
            constant = (of_query.to(context.dtype) @ context).unsqueeze(1)
            plus = constant if plus is None else plus + constant
        return product(operand(as_tensor(query)), context, plus, rows=rows)


class OneRow(Strategy):
    """Every row of A is the same: one is computed for all."""

    name = 'one_row'
    traceable = True

    def cost(self, case: Case, machine: Machine) -> Cost:
        size = case.batch * case.keys * case.depth * case.itemsize
        return Cost(0, ((size, pick(case, 1, 3)),), pick(case, 2, 6)).and_(maps(case))

    def run(self, affinity, values: Map, weight: Tensor | None, plus: Tensor | None):
        out = affinity.context(operand(as_tensor(values)))
        out = mix(out, weight)
        out = out if plus is None else out + plus
        return out.expand(-1, affinity.shape[1], -1)


class Recursion(Strategy):
    """A polynomial of ``A = L Rᵀ`` by ``Rᵀ L``, r x r: two passes over the positions
    whatever the order; see :func:`..filters.chebyshev`."""

    name = 'recursion'

    def refuses(self, case: Case) -> str | None:
        if case.use != 'polynomial' or case.times < 2:
            return 'only a polynomial of order 2 and more repeats the small product'
        return None

    def cost(self, case: Case, machine: Machine) -> Cost:
        rank, depth = case.rank, case.depth
        small = case.batch * case.times * rank * depth * (rank + case.depth_out)
        return _factors(case).and_(
            _thin(case, rank, rank),
            _thin(case, depth, rank),
            _thin(case, rank, case.depth_out),
            Cost(small * products(case), (), pick(case, 3, 9) * case.times),
        )


class Gram(Strategy):
    """Query, key, values and output are linear maps of one x (B, N, C).

    The context keyᵀ values is then a map of the channels' Gram matrix xᵀ x, and what
    follows it one map of x: two products over positions of width C replace five, and
    no projection is stored. It pays where positions outnumber channels.
    """

    name = 'gram'
    blocks = 1  # of channels, of whose products those below the diagonal are mirrored

    def refuses(self, case: Case) -> str | None:
        if not case.source:
            return 'query, key and values are not plain 1x1 convolutions of one map'
        if case.use != 'apply' or case.times > 1:
            return 'the affinity is applied more than once'
        if case.precision == 'half':
            return 'half precision has no digits for squares of the input'
        return None

    def cost(self, case: Case, machine: Machine) -> Cost:
        channels, positions = case.source, case.batch * case.queries
        size = positions * channels * case.itemsize
        again = self.blocks - 1  # every block reads what is left of x
        # A part of a symmetric product; one product in its backward pass.
        share = (self.blocks + 1) / (2 * self.blocks)
        gram = positions * channels**2 * (share + case.grad)
        slope = positions * channels * case.depth_out * products(case)
        small = (
            case.batch
            * channels
            * (
                channels * case.width
                + case.width * case.depth
                + case.depth * case.depth_out
                + case.width * case.depth_out
            )
        )
        out = positions * (channels + case.depth_out) * case.itemsize
        return Cost(
            gram + slope + small * products(case),
            (
                (size, pick(case, 1, 3)),
                cached(size, again, machine),
                (out, products(case)),
            ),
            pick(case, 18, 50) + 6 * again,
        )

    def run(self, affinity, values: LinearMap, weight: Tensor | None, plus):
        slope, constant = self._map_of_x(affinity, values, weight)
        if constant is not None:
            plus = constant if plus is None else plus + constant
        x = affinity.query.x
        return product(x, slope, plus, rows=is_row_major(x))

    def _map_of_x(
        self, affinity, values: LinearMap, weight: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """S (B, C, D) and s (B, 1, D) or None of the result x S + s."""
        query, key = affinity.query, affinity.key
        gram, total = Moments.apply(values.x, self.blocks)
        dtype, total = gram.dtype, total.unsqueeze(1)
        context = key.weight.to(dtype) @ gram @ transposed(values.weight.to(dtype))
        if key.bias is not None:
            context = context + key.bias.unsqueeze(-1) * mix(total, values.weight)
        if values.bias is not None:
            projected = mix(total, key.weight)
            if key.bias is not None:
                projected = projected + affinity.shape[2] * key.bias
            context = context + transposed(projected) * values.bias
        context = context * affinity.scale
        if weight is not None:
            context = context @ transposed(weight.to(dtype))
        slope = transposed(query.weight.to(dtype)) @ context
        if query.bias is None:
            return slope, None
        return slope, (query.bias.to(dtype) @ context).unsqueeze(1)


class Moments(torch.autograd.Function):
    """``xᵀ x`` (B, C, C) and ``Σ_i x_i`` (B, C) of x (B, N, C).

    The gradient is ``x (G + Gᵀ) + s``: one product, where a product of two tensors
    would take two.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
        return gram(x, blocks), x.sum(1)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, square: Tensor, total: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        both = square + transposed(square)
        grad = torch.baddbmm(total.unsqueeze(-1), both, transposed(x))
        return transposed(grad), None


def gram(x: Tensor, blocks: int = 1) -> Tensor:
    """``xᵀ x`` (B, C, C) of x (B, N, C), in blocks of channels."""
    if blocks == 1:
        return torch.bmm(transposed(x), x)
    rows: list[Tensor] = []
    side = x.shape[2] // blocks
    for i, block in enumerate(x.split(side, dim=2)):
        mirrored = [transposed(row.narrow(2, i * side, side)) for row in rows]
        right = torch.bmm(transposed(block), x[:, :, i * side :])
        rows.append(torch.cat([*mirrored, right], dim=2))
    return torch.cat(rows, dim=1)


class BlockGram(Gram):
    """The same by blocks of channels, of which 5/8 are computed."""

    name = 'block_gram'
    blocks = 4

    def refuses(self, case: Case) -> str | None:
        if case.source % self.blocks:
            return f'the channels are no multiple of {self.blocks}'
        return super().refuses(case)


FACTORS, DOT_FACTORS, ONE_ROW = Factors(), DotFactors(), OneRow()
RECURSION, GRAM, BLOCK_GRAM = Recursion(), Gram(), BlockGram()
