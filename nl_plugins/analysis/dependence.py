# Copyright (c) The nl_plugins authors. All rights reserved.
"""How much the rows of an affinity differ: does a query matter?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ..blocks import NonLocalBlock
from ..graph import Affinity
from ..graph.precision import at_least_float32
from .ablation import filtering_modules, mean_row, replaced_affinity
from .record import choose_layers, eager


@dataclass
class Estimate:
    """A mean over samples.

    Attributes:
        mean (float): The mean.
        low (float): Lower end of its 95 % interval, nan of one sample.
        high (float): Upper end.
    """

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """By the standard error over the samples, times 1.96."""
        numbers = torch.tensor(values, dtype=torch.double)
        mean, half = numbers.mean().item(), math.nan
        if len(numbers) > 1:
            half = 1.96 * numbers.std().item() / len(numbers) ** 0.5
        return cls(mean, mean - half, mean + half)

    def __format__(self, spec: str) -> str:
        text = format(self.mean, spec)
        if not math.isnan(self.low):
            text += f' [{format(self.low, spec)}, {format(self.high, spec)}]'
        return text


@dataclass
class QueryDependence:
    """How the rows A_i of one block's affinity (N x M) differ.

    With ``p_i = |A_i| / Σ_j |A_ij|``, ``ā = Aᵀ 1 / N`` the mean row and ``p̄`` likewise
    of ā, every number is the mean over the sampled rows of each sample:

    Attributes:
        total_variation (Estimate): ``½ Σ_j |A_ij / Σ|A_i| - ā_j / Σ|ā||``, in [0, 1];
            0 where every query sees the same.
        cosine_distance (Estimate): ``1 - cos(A_i, ā)``, in [0, 2].
        entropy (Estimate): ``-Σ_j p_ij log p_ij / log M``, in [0, 1]; 1 is the mean of
            all keys.
        self_mass (Estimate, optional): p_ii; None where keys are pooled.
        self_chance (float, optional): What uniform weights give.
        near_mass (Estimate, optional): Sum of p_ij over the neighbours j of i, at most
            one step away in every dimension, i included.
        near_chance (float, optional): What uniform weights give.
        distance (list[float], optional): Mass of the positions at the distances
            0 .. 1, in tenths of the diagonal of the grid.
        distance_chance (list[float], optional): What uniform weights give.
        queries (int): N.
        keys (int): M.
        samples (int): Samples that were looked at.
        rows (int): Rows of each.
    """

    total_variation: Estimate
    cosine_distance: Estimate
    entropy: Estimate
    self_mass: Estimate | None
    self_chance: float | None
    near_mass: Estimate | None
    near_chance: float | None
    distance: list[float] | None
    distance_chance: list[float] | None
    queries: int
    keys: int
    samples: int
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """Numbers, lists and dicts alone, for a JSON."""
        return asdict(self)


@torch.no_grad()
def query_dependence(
    model: nn.Module,
    data: Iterable[Any],
    layers: Sequence[str] | None = None,
    num_rows: int = 64,
    seed: int = 0,
    run: Callable[[Any], Any] | None = None,
) -> dict[str, QueryDependence]:
    """Measure, block by block, whether a query sees something of its own.

    No matrix is built: the mean row takes one application of the transpose, and only
    the sampled rows are computed. For blocks of ours and, while
    ``nl_plugins.accelerate`` is in force, the classes that it accelerates; a block that
    filters several times is measured at its first pass::

        found = query_dependence(model, (images for images, _ in loader))
        print(dependence_table(found))

    Args:
        model (nn.Module): Any model that holds blocks.
        data (Iterable): Batches.
        layers (Sequence[str], optional): Names of the blocks, or of modules that hold
            blocks. Defaults to None, all blocks.
        num_rows (int): Rows of each sample, drawn without replacement; all, if there
            are fewer. Defaults to 64.
        seed (int): Of that draw. Defaults to 0.
        run (Callable, optional): Runs the model on a batch. Defaults to None: its
            ``test_step`` for a dict or list, else the model itself.

    Returns:
        dict[str, QueryDependence]: By name of the block; only blocks that ran.

    Raises:
        ValueError: If ``num_rows`` is not positive, a layer holds no block, or no
            block ran.
    """
    if num_rows < 1:
        raise ValueError(f'num_rows must be positive, but got {num_rows}')
    observers = {
        name: _Observer(module, num_rows, seed)
        for name, module in choose_layers(filtering_modules(model), layers).items()
    }
    with ExitStack() as stack:
        for observer in observers.values():
            stack.enter_context(observer.observing())
        stack.enter_context(eager())
        for batch in data:
            if run is not None:
                run(batch)
            elif isinstance(batch, (dict, list)) and hasattr(model, 'test_step'):
                model.test_step(batch)
            else:
                model(batch)
    found = {name: each.result() for name, each in observers.items() if each.measured}
    if not found:
        raise ValueError(
            'no non-local block ran: the model holds none, or there are no data'
        )
    return found


def dependence_table(found: dict[str, QueryDependence]) -> str:
    """The measurements in Markdown, means with 95 % intervals."""
    lines = [
        '| block | N x M | total variation | cosine distance | entropy | own position '
        '(chance) | neighbourhood (chance) |',
        '|' + ' --- |' * 7,
    ]
    for name, one in found.items():
        own = near = '-'
        if one.self_mass is not None:
            own = f'{one.self_mass:.4f} ({one.self_chance:.4f})'
            near = f'{one.near_mass:.4f} ({one.near_chance:.4f})'
        lines.append(
            f'| `{name}` | {one.queries} x {one.keys} | {one.total_variation:.3f} | '
            f'{one.cosine_distance:.3f} | {one.entropy:.3f} | {own} | {near} |'
        )
    return '\n'.join(lines)


class _Observer:
    """Measures the affinities of one module as it applies them."""

    def __init__(self, module: nn.Module, num_rows: int, seed: int) -> None:
        self.module, self.num_rows = module, num_rows
        self.generator = torch.Generator().manual_seed(seed)
        self.measured: list[dict[str, Tensor]] = []
        self.batch, self.grid, self.waiting = 0, (), False

    def observing(self) -> ExitStack:
        stack = ExitStack()
        handle = self.module.register_forward_pre_hook(self._begin)
        stack.callback(handle.remove)
        stack.enter_context(replaced_affinity(self.module, self._measure))
        return stack

    def _begin(self, module: nn.Module, args: tuple) -> None:
        self.batch, self.grid = args[0].shape[0], tuple(args[0].shape[2:])
        self.waiting = True

    def _measure(self, affinity: Affinity) -> Affinity:
        if self.waiting:
            self.waiting = False
            self._add(affinity)
        return affinity

    def _add(self, affinity: Affinity) -> None:
        size, queries, keys = affinity.shape
        index = torch.randperm(queries, generator=self.generator)[: self.num_rows]
        rows = at_least_float32(affinity.rows(index))
        mean = mean_row(affinity).to(rows).unsqueeze(1)
        scaled, average = (_scaled(each, signed=True) for each in (rows, mean))
        # 1 - cos of unit vectors by their distance keeps its digits near 0.
        units = [torch.nn.functional.normalize(each, dim=2) for each in (rows, mean)]
        weights = _scaled(rows)
        logs = torch.special.entr(weights).sum(2) / max(math.log(keys), 1e-12)
        numbers = dict(
            total_variation=(scaled - average).abs().sum(2) / 2,
            cosine_distance=(units[0] - units[1]).square().sum(2) / 2,
            entropy=logs,
        )
        numbers = {name: value.mean(1) for name, value in numbers.items()}
        spatial = self._spatial(queries, keys)
        if spatial is not None:
            numbers |= _by_distance(weights, index.to(weights.device), spatial)
        # Groups of a compact block and frames of a graph a frame are one sample.
        parts = size // self.batch
        self.measured.append(
            {
                name: value.unflatten(0, (self.batch, parts)).mean(1).double().cpu()
                for name, value in numbers.items()
            }
        )
        self.shape = queries, keys

    def _spatial(self, queries: int, keys: int) -> tuple[int, ...] | None:
        """The grid of queries and keys, if they are on one."""
        if isinstance(self.module, NonLocalBlock):
            if getattr(self.module, 'pool_sizes', ()):
                return None
            # A compact block has a node a position and channel.
            space = self.module.key_grid(self.grid)[-len(self.grid) :]
        else:
            space = self.grid
        same = queries == keys and queries % prod(space) == 0
        return tuple(space) if same else None

    def result(self) -> QueryDependence:
        joined = {
            name: torch.cat([each[name] for each in self.measured])
            for name in self.measured[0]
        }
        queries, keys = self.shape

        def estimate(name: str) -> Estimate | None:
            return Estimate.of(joined[name].tolist()) if name in joined else None

        def mean(name: str) -> Any:
            return joined[name].mean(0).tolist() if name in joined else None

        return QueryDependence(
            total_variation=estimate('total_variation'),
            cosine_distance=estimate('cosine_distance'),
            entropy=estimate('entropy'),
            self_mass=estimate('self_mass'),
            self_chance=mean('self_chance'),
            near_mass=estimate('near_mass'),
            near_chance=mean('near_chance'),
            distance=mean('distance'),
            distance_chance=mean('distance_chance'),
            queries=queries,
            keys=keys,
            samples=len(joined['entropy']),
            rows=min(self.num_rows, queries),
        )


def _scaled(rows: Tensor, signed: bool = False) -> Tensor:
    """Rows with magnitudes that sum to 1; a row of zeros stays."""
    total = rows.abs().sum(2, keepdim=True)
    scaled = rows / total.clamp_min(torch.finfo(rows.dtype).tiny)
    return scaled if signed else scaled.abs()


def _by_distance(
    weights: Tensor, index: Tensor, grid: tuple[int, ...]
) -> dict[str, Tensor]:
    """Mass of rows (B, R, M) at the nodes ``index`` by the distance on a grid."""
    batch, positions = len(weights), prod(grid)
    # Nodes of one position count together.
    mass = weights.unflatten(2, (-1, positions)).sum(2)
    axes = [torch.arange(size, device=index.device) for size in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing='ij'), -1).flatten(0, -2)
    offsets = (places[index % positions].unsqueeze(1) - places).to(mass.dtype)
    reach = offsets.abs().amax(2)
    diagonal = math.hypot(*(size - 1 for size in grid)) or 1.0
    bins = (offsets.norm(dim=2) / diagonal * 10).long().clamp_max(9)

    def inside(chosen: Tensor) -> tuple[Tensor, Tensor]:
        chosen = chosen.to(mass)
        return (mass * chosen).sum(2).mean(1), chosen.mean().expand(batch)

    numbers = {}
    numbers['self_mass'], numbers['self_chance'] = inside(reach == 0)
    numbers['near_mass'], numbers['near_chance'] = inside(reach <= 1)
    rings = [inside(bins == number) for number in range(10)]
    numbers['distance'], numbers['distance_chance'] = (
        torch.stack(parts, 1) for parts in zip(*rings)
    )
    return numbers
