# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Sites and voxels: how the core's loops are put together; `pairing` has the pairs.

A layer relates a fine and a coarse side, ``fine = coarse * stride - padding + tap * dilation`` (csrc/core/relation.h). A
convolution or a pooling reads the fine side, a transposed convolution the coarse one. Nothing here knows tensors of features,
layers or caches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _cuda_sites, _native, _native_maps
from ._native import INT32_MAX, INT32_MIN
from ._scratch import scratch

Bounds = tuple[Sequence[int], Sequence[int]]  # lowest and highest value of each column of coordinates


def sorted_keys(
    coords: Tensor, layout: _native.KeyLayout, scale: Sequence[int], slot: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """The keys of coords * scale in increasing order, [N + 1] with a free last place, and their rows (None = row order).

    slot: of working memory to put them into, see `_scratch.scratch`; None = memory of their own.
    """
    n = coords.shape[0]
    if slot is None:
        keys = torch.empty(n + 1, dtype=torch.int64)
    else:
        keys = scratch(8 * (n + 1), slot)[: 8 * (n + 1)].view(torch.int64)
    if _native.pack(coords, layout, scale, keys):
        return keys, None
    rows = torch.empty(n, dtype=torch.int32)
    _native.sort_rows(keys, rows, _native.key_bits(layout))
    return keys, rows


def bounds_of(coords: Tensor) -> Bounds:
    """Lowest and highest value of each column of coords [N, 1 + D] int32, N > 0."""
    return _cuda_sites.bounds(coords) if _native.on_gpu(coords) else _native.bounds(coords)


def bounds_and_repeat(coords: Tensor) -> tuple[Bounds, int | None]:
    """`bounds_of`, and what a GPU finds on the way: the lowest row that equals an earlier one, -1 for none; else None."""
    if not _native.on_gpu(coords):
        return _native.bounds(coords), None
    low, high, repeat = _cuda_sites.bounds_and_repeat(coords)
    return (low, high), repeat


def find_duplicate(
    coords: Tensor, bounds: Bounds | None = None, repeat: int | None = None
) -> tuple[int, int] | None:
    """The first row of coords [N, 1 + D] that equals an earlier one, as (earlier, later); None where all rows differ.

    bounds, repeat: from `bounds_and_repeat`, where they are known.
    """
    if len(coords) < 2:
        return None
    # On a GPU too: refuses what no map could be built of.
    layout = _native.key_layout(*(bounds or bounds_of(coords)))
    if _native.on_gpu(coords):
        return _cuda_sites.find_duplicate(coords, repeat)
    keys, rows = sorted_keys(coords, layout, [1] * coords.shape[1])
    return None if rows is None else _native.find_duplicate(keys, rows)


def moved_range(low: int, high: int, relation: Sequence[int], to_fine: bool) -> tuple[int, int]:
    """The range of one axis after a layer; empty (low > high) where nothing is reached."""
    kernel, stride, padding, dilation = relation
    reach = dilation * (kernel - 1)
    if to_fine:
        return low * stride - padding, high * stride - padding + reach
    return -((reach - low - padding) // stride), (high + padding) // stride


class Moved:
    """Where a layer's outputs can lie: bounds of the input, range of the outputs, and a key layout that holds both."""

    def __init__(
        self,
        bounds: Bounds,
        relations: Sequence[Sequence[int]],
        to_fine: bool,
        shape: Sequence[int] | None,
    ) -> None:
        self.low, self.high = bounds
        reached = [
            moved_range(low, high, relation, to_fine)
            for low, high, relation in zip(self.low[1:], self.high[1:], relations, strict=True)
        ]
        self.ranges = (
            reached
            if shape is None
            else [(max(first, 0), min(last, n - 1)) for (first, last), n in zip(reached, shape, strict=True)]
        )
        self.clipped = self.ranges != reached
        self.empty = any(first > last for first, last in self.ranges)
        self.reached = reached

    def layout(self, relations: Sequence[Sequence[int]], to_fine: bool) -> _native.KeyLayout:
        """Raises ValueError where outputs would not fit int32, or the keys 63 bits."""
        low, high = [self.low[0]], [self.high[0]]
        for axis, (first, last) in enumerate(self.ranges):
            if first < INT32_MIN or last > INT32_MAX:
                raise ValueError(
                    f"output coordinates must fit int32, axis {axis} would span {first} .. {last}"
                )
            have_low, have_high = self.low[axis + 1], self.high[axis + 1]
            if (
                not to_fine
            ):  # keys of strided_map: the cell (in + padding) // stride, clipped or not; room to align fields
                _, stride, padding, _ = relations[axis]
                first = min(self.reached[axis][0], (have_low + padding) // stride)
                last = (have_high + padding) // stride
                have_high += stride - 1
            low.append(min(have_low, first))
            high.append(max(have_high, last))
        return _native.key_layout(low, high)


def moved_bounds(
    bounds: Sequence[int] | None,
    relations: Sequence[Sequence[int]],
    to_fine: bool,
    shape: Sequence[int] | None,
) -> list[int] | None:
    """Bounds of a layer's outputs from those of its inputs, both flat: lowest values, then highest; None for None."""
    if bounds is None:
        return None
    width = len(bounds) // 2
    moved = Moved((bounds[:width], bounds[width:]), relations, to_fine, shape)
    low, high = zip(*moved.ranges, strict=True)
    return [bounds[0], *low, bounds[width], *high]


def output_coords(
    coords: Tensor,
    relations: Sequence[Sequence[int]],
    to_fine: bool,
    shape: Sequence[int] | None,
    bounds: Bounds | None = None,
) -> Tensor:
    """Every cell that a box kernel's footprint touches, in lexicographic order.

    Args:
        coords: [N, 1 + D] int32, unique rows, contiguous.
        relations: per axis (kernel, stride, padding, dilation).
        to_fine: True for transposed layers, which go from the coarse side to the fine one.
        shape: cells outside [0, shape) are dropped; None keeps all.
        bounds: lowest and highest value of each column, where they are known.
    """
    width = coords.shape[1]
    nothing = coords.new_empty(0, width)
    if len(coords) == 0:
        return nothing
    moved = Moved(bounds or bounds_of(coords), relations, to_fine, shape)
    if moved.empty:
        return nothing
    layout = moved.layout(relations, to_fine)
    if _native.on_gpu(coords):
        return _cuda_sites.output_coords(coords, layout, relations, to_fine, moved.ranges)
    padded_keys, _ = sorted_keys(coords, layout, [1] * width)
    keys = padded_keys[:-1]
    for axis, (first, last) in enumerate(moved.ranges):
        if len(keys) == 0:
            return nothing
        low, high = moved.low[axis + 1], moved.high[axis + 1]
        unmoved = list(relations[axis][:3]) == [1, 1, 0] and first <= low and high <= last
        if not unmoved:
            keys = _move_axis(keys, layout, axis + 1, list(relations[axis]), to_fine, first, last)
    out = torch.empty(len(keys), width, dtype=torch.int32)
    _native.unpack(keys, layout, out)
    return out


def _move_axis(
    keys: Tensor,
    layout: _native.KeyLayout,
    field: int,
    relation: Sequence[int],
    to_fine: bool,
    low: int,
    high: int,
) -> Tensor:
    counts = torch.empty(-(-len(keys) // _native.MERGE_CHUNK), dtype=torch.int64)
    _native_maps.move_axis(keys, layout, field, relation, to_fine, low, high, counts)
    starts = counts.cumsum(0) - counts
    out = torch.empty(int(counts.sum()), dtype=torch.int64)
    _native_maps.move_axis(keys, layout, field, relation, to_fine, low, high, counts, starts, out)
    return out


def find_rows(coords: Tensor, queries: Tensor) -> Tensor:
    """The row of coords [N, 1 + D] that equals each row of queries [M, 1 + D], int64 [M], -1 for none."""
    if min(len(coords), len(queries)) == 0:
        return torch.full((len(queries),), -1, dtype=torch.int64, device=queries.device)
    axes = coords.shape[1] - 1
    (low, high), (query_low, query_high) = bounds_of(coords), bounds_of(queries)
    layout = _native.key_layout(
        [min(pair) for pair in zip(low, query_low, strict=True)],
        [max(pair) for pair in zip(high, query_high, strict=True)],
    )
    if _native.on_gpu(coords):
        return _cuda_sites.find_rows(coords, queries, layout)
    keys = torch.empty(len(coords), dtype=torch.int64)
    query_keys = torch.empty(len(queries), dtype=torch.int64)
    _native.pack(coords, layout, [1] * (axes + 1), keys)
    _native.pack(queries, layout, [1] * (axes + 1), query_keys)
    table = torch.empty(1, len(queries), dtype=torch.int32)
    centre = torch.zeros(1, axes, dtype=torch.int32)
    _native_maps.find_neighbors_hash(keys, query_keys, layout, centre, [0] * axes, [1] * axes, table)
    return table[0].to(torch.int64)


def group_rows(index: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Rows by group: order int64 [N], stable, and offsets int64 [groups + 1] into it; index int64 [N] in [0, groups)."""
    if len(index) and (int(index.min()) < 0 or int(index.max()) >= groups):
        raise ValueError(f"index must lie in [0, {groups}), got {int(index.min())} .. {int(index.max())}")
    if _native.on_gpu(index):
        return _cuda_sites.group_rows(index, groups)
    keys = index.clone()
    rows = torch.empty(len(index), dtype=torch.int32)
    _native.sort_rows(keys, rows, max(groups - 1, 1).bit_length())
    offsets = torch.searchsorted(keys, torch.arange(groups + 1, dtype=torch.int64))
    return rows.to(torch.int64), offsets


def voxel_runs(
    points: Tensor, batch: Tensor | None, origin: Sequence[float], size: Sequence[float]
) -> tuple[Tensor, ...]:
    """Points [N, D] into voxels: coords [V, 1 + D] int32 in lexicographic order, voxel of each point int64 [N],
    and the points of each voxel in their order: order int64 [N], offsets int64 [V + 1].
    """
    width = points.shape[1] + 1
    if _native.on_gpu(points):
        cells, bad, bounds = _cuda_sites.cells_of_points(points, batch, origin, size)
    else:
        bounds = None
        cells = torch.empty(len(points), width, dtype=torch.int32)
        bad = _native.cells_of_points(points, batch, origin, size, cells)
    if bad >= 0:
        raise ValueError(
            f"voxelize: points must be finite and within int32 cells of their voxel size, got {points[bad].tolist()} in row {bad}"
        )
    coords, voxel_of_point, order, offsets = _runs(cells, bounds)
    return coords, voxel_of_point, order, offsets


def unique_coords(coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows of coords [N, 1 + D] in lexicographic order, and where each stood: order [N] and offsets [M + 1]."""
    unique, _, order, offsets = _runs(coords)
    return unique, order, offsets


def _runs(cells: Tensor, bounds: Bounds | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distinct rows of cells [N, W], the distinct row of each row, and the rows of each distinct one: order, offsets."""
    n, width = cells.shape
    if n == 0:
        empty = torch.empty(0, dtype=torch.int64, device=cells.device)
        return cells.clone(), empty, empty.clone(), empty.new_zeros(1)
    layout = _native.key_layout(*(bounds or bounds_of(cells)))
    if _native.on_gpu(cells):
        return _cuda_sites.runs(cells, layout)
    keys, rows = sorted_keys(cells, layout, [1] * width)
    if rows is None:
        rows = torch.arange(n, dtype=torch.int32)
    offsets, run_of_row, run_keys = _native.split_runs(keys, rows)
    unique = torch.empty(len(run_keys), width, dtype=torch.int32)
    _native.unpack(run_keys, layout, unique)
    return unique, run_of_row, rows.to(torch.int64), offsets
