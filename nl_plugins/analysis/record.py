# Copyright (c) The nl_plugins authors. All rights reserved.
"""Where a query position looks: one row of an affinity, folded to a map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..blocks import NonLocalBlock
from ..graph import Affinity


@dataclass
class AttentionRecord:
    """The graph of one block for one input, as an operator: no N x M matrix.

    Attributes:
        affinity (Affinity): (B', N, M).
        grid (tuple[int]): Sizes S of the block's input (B, C, *S).
        key_grid (tuple[int], optional): Grid of the M keys; None means ``grid``.
        batch_size (int, optional): B; None means that of the affinity.
        pool_sizes (tuple[int]): Grid sizes of a pyramid of pooled keys (ANL).
    """

    affinity: Affinity
    grid: tuple[int, ...]
    key_grid: tuple[int, ...] | None = None
    batch_size: int | None = None
    pool_sizes: tuple[int, ...] = ()

    def row(self, position: Sequence[int], sample: int = 0) -> Tensor:
        """Weights of the keys for one query, as a map over a grid.

        Args:
            position (Sequence[int]): Index of the query on ``grid``.
            sample (int): Index in the batch. Defaults to 0.

        Returns:
            Tensor: A map with as many dimensions as ``grid``. Keys that are pooled
            give a smaller map, a pyramid of keys is spread over ``grid``; the nodes
            of a compact block (position x channel) are averaged in magnitude over
            the channels; keys of other frames than a per-frame block sees are 0.
        """
        grid, keys = self.grid, tuple(self.key_grid or self.grid)
        _check_position(position, grid)
        batch, queries, _ = self.affinity.shape
        samples = self.batch_size or batch
        if not 0 <= sample < samples:
            raise ValueError(f'sample must be in 0..{samples - 1}, but got {sample}')
        parts = batch // samples  # groups of a compact block, frames of a 2D graph
        flat = _ravel(position, grid)
        if len(keys) > len(grid):  # one node a position and channel
            nodes = torch.arange(queries // prod(grid)) * prod(grid) + flat
            rows = [
                _part(self.affinity, sample * parts + part, nodes)
                for part in range(parts)
            ]
            return torch.stack(rows).abs().mean((0, 1)).unflatten(0, keys).mean(0)
        if queries < prod(grid):  # a graph a frame
            frame = position[0]
            inside = _ravel(position[1:], grid[1:])
            row = _part(self.affinity, sample * parts + frame, [inside])[0]
            whole = row.new_zeros(grid[0], *keys)
            whole[frame] = row.unflatten(0, keys)
            return whole
        row = _part(self.affinity, sample, [flat])[0]
        if self.pool_sizes:
            return _spread_pyramid(row, self.pool_sizes, grid)
        return row.unflatten(0, keys)


@contextmanager
def record_attention(
    model: nn.Module, layers: Sequence[str] | None = None
) -> Iterator[dict[str, AttentionRecord]]:
    """Record the graph of every non-local block that runs inside the context.

    The operators are kept, not their matrices; of several runs the last stays. The
    hooks are removed at the end, whatever happens::

        with record_attention(model) as maps:
            model(inputs, mode='tensor')
        heat = query_map(maps['backbone.layer3.5.nl_block'], (y, x), image.shape[:2])

    Args:
        model (nn.Module): Any model that holds blocks.
        layers (Sequence[str], optional): Names of the blocks, or of modules that
            hold blocks. Defaults to None, all blocks.

    Yields:
        dict[str, AttentionRecord]: By name of the block.

    Raises:
        ValueError: If a layer does not exist or holds no block.
    """
    blocks = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, NonLocalBlock)
    }
    chosen = choose_layers(blocks, layers)
    records: dict[str, AttentionRecord] = {}
    handles = [
        block.register_forward_pre_hook(partial(_record, records, name))
        for name, block in chosen.items()
    ]
    try:
        with eager():
            yield records
    finally:
        for handle in handles:
            handle.remove()


def query_map(
    record: AttentionRecord,
    position: Sequence[float],
    size: Sequence[int] | None = None,
    sample: int = 0,
) -> Tensor:
    """The weights that a query gives to all positions, as a heat map.

    Args:
        record (AttentionRecord): From :func:`record_attention`.
        position (Sequence[float]): (y, x), or (t, y, x) for clips. In pixels (and
            frames) of ``size`` where that is given, else an index on the grid.
        size (Sequence[int], optional): (H, W) or (T, H, W) of the picture or clip.
            With (H, W) the map of a clip keeps its own number of frames, in which t
            counts. Defaults to None, the block's own grid.
        sample (int): Index in the batch. Defaults to 0.

    Returns:
        Tensor: (H, W), or (T, H, W) for clips. Enlarged linearly, so that values are
        still weights of grid cells.

    Raises:
        ValueError: If the position is outside, or has other dimensions.
    """
    grid = record.grid
    if size is None:
        size = grid
    elif len(size) == 2 and len(grid) == 3:
        size = (grid[0], *size)
    if len(size) != len(grid):
        raise ValueError(
            f'size must have {len(grid)} numbers for a block that sees {grid}, but '
            f'got {tuple(size)}'
        )
    _check_position(position, size)
    cell = [int(p * g / s) for p, g, s in zip(position, grid, size)]
    heat = record.row(cell, sample)
    if heat.shape == tuple(size):
        return heat
    mode = {1: 'linear', 2: 'bilinear', 3: 'trilinear'}[len(grid)]
    heat = heat.float()[None, None]
    heat = F.interpolate(heat, tuple(size), mode=mode, align_corners=False)
    return heat[0, 0]


@torch.no_grad()
def _record(
    records: dict[str, AttentionRecord], name: str, block: NonLocalBlock, args: tuple
) -> None:
    x = args[0].detach()
    # Computing the graph again must not move the statistics of a norm.
    modes = {module: module.training for module in block.modules()}
    try:
        block.eval()
        affinity = block.affinity(x)
    finally:
        for module, training in modes.items():
            module.training = training
    spatial = tuple(x.shape[2:])
    records[name] = AttentionRecord(
        affinity,
        spatial,
        block.key_grid(spatial),
        x.shape[0],
        tuple(getattr(block, 'pool_sizes', ())),
    )


def eager() -> AbstractContextManager:
    """Makes a network that was compiled before call its modules again."""
    stance = getattr(torch.compiler, 'set_stance', None)
    return stance('force_eager') if stance else nullcontext()


def choose_layers(blocks: dict, layers: Sequence[str] | None) -> dict:
    """The blocks, by name, that have one of these names or lie inside of one."""
    if layers is None:
        return blocks
    chosen = {}
    for layer in [layers] if isinstance(layers, str) else layers:
        found = {
            name: block
            for name, block in blocks.items()
            if name == layer or name.startswith(f'{layer}.')
        }
        if not found:
            raise ValueError(
                f'layer {layer!r} holds no non-local block; blocks of the model: '
                f'{list(blocks) or "none"}'
            )
        chosen.update(found)
    return chosen


def _part(affinity: Affinity, index: int, rows: Sequence[int] | Tensor) -> Tensor:
    return affinity.rows(rows)[index]


def _check_position(position: Sequence[float], size: Sequence[int]) -> None:
    if len(position) != len(size) or not all(
        0 <= p < s for p, s in zip(position, size)
    ):
        raise ValueError(
            f'position must be inside {tuple(size)}, but got {tuple(position)}'
        )


def _ravel(position: Sequence[int], grid: Sequence[int]) -> int:
    flat = 0
    for p, g in zip(position, grid):
        flat = flat * g + int(p)
    return flat


def _spread_pyramid(
    row: Tensor, pool_sizes: Sequence[int], grid: tuple[int, ...]
) -> Tensor:
    """Give the weight of every pooled cell to the positions it averages, evenly."""
    heat = row.new_zeros(grid)
    weights = row.split([size ** len(grid) for size in pool_sizes])
    for size, cells in zip(pool_sizes, weights):
        cells = cells.view([size] * len(grid))
        for length in grid:  # each turn puts the next axis first
            cells = torch.tensordot(cells, _windows(size, length).to(row), ([0], [0]))
        heat += cells
    return heat


def _windows(size: int, length: int) -> Tensor:
    """(size, length): the averages of adaptive pooling along one axis."""
    cells, positions = torch.arange(size).unsqueeze(1), torch.arange(length)
    first = cells * length // size
    end = -(-(cells + 1) * length // size)
    inside = ((positions >= first) & (positions < end)).float()
    return inside / inside.sum(1, keepdim=True)
