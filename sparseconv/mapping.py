# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Output sites and pairs: how the core's loops are put together.

A layer relates a fine and a coarse side, ``fine = coarse * stride - padding + tap * dilation`` (csrc/core/relation.h). A
convolution or a pooling reads the fine side, a transposed convolution the coarse one. Nothing here knows tensors of features,
layers or caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import _native

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
TABLE_BYTES = 256 << 20  # a table of neighbours is built for as many taps at a time as fit this
ADDRESS_SPACE = 1 << 30  # bytes set aside for pairs that are being found; only where there are some is memory touched
Bounds = tuple[Sequence[int], Sequence[int]]  # lowest and highest value of each column of coordinates


def _sorted_keys(
    coords: Tensor, layout: _native.KeyLayout, scale: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """The keys of coords * scale in increasing order, [N + 1] with a free last place, and their rows (None = row order)."""
    keys = torch.empty(len(coords) + 1, dtype=torch.int64)
    if _native.pack(coords, layout, scale, keys):
        return keys, None
    rows = torch.empty(len(coords), dtype=torch.int32)
    _native.sort_rows(keys, rows, _bits(layout))
    return keys, rows


def _bits(layout: _native.KeyLayout) -> int:
    """Bits of a key: where the batch field, the topmost, ends."""
    fields = len(layout) // 3
    return layout[fields] + layout[2 * fields]


def find_duplicate(coords: Tensor, bounds: Bounds | None = None) -> tuple[int, int] | None:
    """The first row of coords [N, 1 + D] that equals an earlier one, as (earlier, later); None where all rows differ."""
    if len(coords) < 2:
        return None
    layout = _native.key_layout(*(bounds or _native.bounds(coords)))
    keys, rows = _sorted_keys(coords, layout, [1] * coords.shape[1])
    return None if rows is None else _native.find_duplicate(keys, rows)


def _moved_range(low: int, high: int, relation: Sequence[int], to_fine: bool) -> tuple[int, int]:
    """The range of one axis after a layer; empty (low > high) where nothing is reached."""
    kernel, stride, padding, dilation = relation
    reach = dilation * (kernel - 1)
    if to_fine:
        return low * stride - padding, high * stride - padding + reach
    return -((reach - low - padding) // stride), (high + padding) // stride


class _Moved:
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
            _moved_range(low, high, relation, to_fine)
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
            if not to_fine:  # keys of strided_map: the cell (in + padding) // stride, clipped or not; room to align fields
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
    moved = _Moved((bounds[:width], bounds[width:]), relations, to_fine, shape)
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
    moved = _Moved(bounds or _native.bounds(coords), relations, to_fine, shape)
    if moved.empty:
        return nothing
    layout = moved.layout(relations, to_fine)
    padded_keys, _ = _sorted_keys(coords, layout, [1] * width)
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


def strided_map(
    coords: Tensor,
    taps: Tensor,
    relations: Sequence[Sequence[int]],
    shape: Sequence[int] | None,
    bounds: Bounds | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`output_coords` of a convolution and its `find_pairs`, together: whoever merges the sites knows the pairs.

    Args:
        coords, relations, shape, bounds: as for `output_coords`.
        taps: [K, D] int32, each within the kernel.

    Returns:
        out coords [M, 1 + D] int32, pairs [P, 2] int32 and tap offsets [K + 1] int64.
    """
    n = len(coords)
    if n and len(taps):
        moved = _Moved(bounds or _native.bounds(coords), relations, False, shape)
        if not moved.empty:
            layout = moved.layout(relations, False)
            call = (
                n,
                layout,
                [number for axis in relations for number in axis],
                [end for axis in moved.ranges for end in axis],
                moved.clipped,
            )
            keys, rows = _sorted_keys(coords, layout, [1] * coords.shape[1])
            size = _native.strided_bytes(keys, *call)
            if 0 <= size <= ADDRESS_SPACE:
                return _native.strided_map(keys, rows, *call, taps, size)
    out = output_coords(coords, relations, False, shape, bounds)
    return out, *find_pairs(coords, out, taps, relations, "sort", bounds)


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
    _native.move_axis(keys, layout, field, relation, to_fine, low, high, counts)
    starts = counts.cumsum(0) - counts
    out = torch.empty(int(counts.sum()), dtype=torch.int64)
    _native.move_axis(keys, layout, field, relation, to_fine, low, high, counts, starts, out)
    return out


def find_pairs(
    fine: Tensor,
    coarse: Tensor,
    taps: Tensor,
    relations: Sequence[Sequence[int]],
    method: str,
    fine_bounds: Bounds | None = None,
    coarse_bounds: Bounds | None = None,
) -> tuple[Tensor, Tensor]:
    """The pairs (fine row, coarse row) of a layer, sorted by (tap, coarse row).

    Args:
        fine, coarse: [N, 1 + D] int32, unique rows, contiguous.
        taps: [K, D] int32, each within the kernel of `relations`.
        relations: per axis (kernel, stride, padding, dilation).
        method: "hash", "sort" or "auto"; all give the same bits.
        fine_bounds, coarse_bounds: lowest and highest value of each column, where they are known.

    Returns:
        pairs [P, 2] int32 and tap offsets [K + 1] int64.
    """
    if min(len(fine), len(coarse), len(taps)) == 0:
        return torch.empty(0, 2, dtype=torch.int32), torch.zeros(len(taps) + 1, dtype=torch.int64)
    stride, padding, dilation = ([relation[i] for relation in relations] for i in (1, 2, 3))
    same_sites = fine.data_ptr() == coarse.data_ptr() and len(fine) == len(coarse)
    fine_low, fine_high = fine_bounds or _native.bounds(fine)
    coarse_low, coarse_high = (
        (fine_low, fine_high) if same_sites else coarse_bounds or _native.bounds(coarse)
    )
    low, high = [min(fine_low[0], coarse_low[0])], [max(fine_high[0], coarse_high[0])]
    for axis, relation in enumerate(relations, start=1):
        # The fine cells read, and the coarse ones scaled: what a query is before the tap is added.
        first, last = _moved_range(coarse_low[axis], coarse_high[axis], relation, True)
        low.append(min(fine_low[axis], first, coarse_low[axis] * relation[1]))
        high.append(max(fine_high[axis], last, coarse_high[axis] * relation[1]))
    layout = _native.key_layout(low, high)
    same_keys = same_sites and all(s == 1 for s in stride)
    scales = [1] * (1 + len(stride)), [1, *stride]
    if method == "hash":
        return _pairs_by_hash(fine, coarse, taps, layout, scales, padding, dilation, same_keys)
    fine_keys, fine_rows = _sorted_keys(fine, layout, scales[0])
    queries, query_rows = (
        (fine_keys, fine_rows) if same_keys else _sorted_keys(coarse, layout, scales[1])
    )
    n = len(coarse)
    mirrored = same_keys and _native.mirrored_taps(taps, layout, padding, dilation)
    table_fits = (fine_rows is None and query_rows is None) or 4 * len(taps) * n <= TABLE_BYTES

    def some(part: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
        match = _native.MatchedPairs(fine_keys, queries, n, layout, part, padding, dilation, mirrored)
        if fine_rows is None and query_rows is None:
            return match.place()
        return _native.pairs_of_table(match.tabulate(fine_rows, query_rows), 1)

    slots = len(taps) // 2 if mirrored else len(taps)
    if table_fits and 8 * slots * n <= ADDRESS_SPACE:
        return some(taps, mirrored)
    return _by_groups(taps, TABLE_BYTES // (4 * n), lambda part: some(part, False))


def _by_groups(
    taps: Tensor, group: int, find: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Pairs and offsets of all taps from those of `group` taps at a time."""
    if group >= len(taps):
        return find(taps)
    parts, offsets = [], [torch.zeros(1, dtype=torch.int64)]
    for some_taps in taps.split(max(1, group)):
        pairs, part_offsets = find(some_taps.contiguous())
        parts.append(pairs)
        offsets.append(part_offsets[1:] + offsets[-1][-1])
    return torch.cat(parts), torch.cat(offsets)


def _pairs_by_hash(
    fine: Tensor,
    coarse: Tensor,
    taps: Tensor,
    layout: _native.KeyLayout,
    scales: tuple[Sequence[int], Sequence[int]],
    padding: Sequence[int],
    dilation: Sequence[int],
    same_keys: bool,
) -> tuple[Tensor, Tensor]:
    fine_keys = torch.empty(len(fine), dtype=torch.int64)
    _native.pack(fine, layout, scales[0], fine_keys)
    queries = fine_keys
    if not same_keys:
        queries = torch.empty(len(coarse), dtype=torch.int64)
        _native.pack(coarse, layout, scales[1], queries)

    def find(part: Tensor) -> tuple[Tensor, Tensor]:
        table = torch.empty(len(part), len(coarse), dtype=torch.int32)
        _native.find_neighbors_hash(fine_keys, queries, layout, part, padding, dilation, table)
        return _native.pairs_of_table(table, 1)

    return _by_groups(taps, TABLE_BYTES // (4 * len(coarse)), find)


def reverse_pairs(pairs: Tensor, tap_offsets: Tensor, n_in: int) -> tuple[Tensor, Tensor]:
    """The same pairs with their columns swapped, (out row, in row), sorted by (tap, in row)."""
    if _native.pairs_sorted(pairs, tap_offsets, 0):
        return pairs.flip(1), tap_offsets.clone()
    taps = len(tap_offsets) - 1
    group = max(1, TABLE_BYTES // (4 * max(n_in, 1)))
    parts = []
    for first in range(0, taps, group):
        last = min(first + group, taps)
        begin, end = int(tap_offsets[first]), int(tap_offsets[last])
        table = torch.empty(last - first, n_in, dtype=torch.int32)
        _native.scatter_pairs(pairs[begin:end], tap_offsets[first : last + 1] - begin, 0, table)
        parts.append(_native.pairs_of_table(table, 1)[0])
    return torch.cat(parts) if len(parts) != 1 else parts[0], tap_offsets.clone()


def neighbor_table(pairs: Tensor, tap_offsets: Tensor, n_out: int) -> Tensor:
    """neighbors [K, n_out] int32: the in row that each out row reads through each tap, -1 for none."""
    table = torch.empty(len(tap_offsets) - 1, n_out, dtype=torch.int32)
    _native.scatter_pairs(pairs, tap_offsets, 1, table)
    return table


def find_rows(coords: Tensor, queries: Tensor) -> Tensor:
    """The row of coords [N, 1 + D] that equals each row of queries [M, 1 + D], int64 [M], -1 for none."""
    if min(len(coords), len(queries)) == 0:
        return torch.full((len(queries),), -1, dtype=torch.int64)
    axes = coords.shape[1] - 1
    (low, high), (query_low, query_high) = _native.bounds(coords), _native.bounds(queries)
    layout = _native.key_layout(
        [min(pair) for pair in zip(low, query_low, strict=True)],
        [max(pair) for pair in zip(high, query_high, strict=True)],
    )
    keys = torch.empty(len(coords), dtype=torch.int64)
    query_keys = torch.empty(len(queries), dtype=torch.int64)
    _native.pack(coords, layout, [1] * (axes + 1), keys)
    _native.pack(queries, layout, [1] * (axes + 1), query_keys)
    table = torch.empty(1, len(queries), dtype=torch.int32)
    centre = torch.zeros(1, axes, dtype=torch.int32)
    _native.find_neighbors_hash(keys, query_keys, layout, centre, [0] * axes, [1] * axes, table)
    return table[0].to(torch.int64)


def group_rows(index: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Rows by group: order int64 [N], stable, and offsets int64 [groups + 1] into it; index int64 [N] in [0, groups)."""
    if len(index) and (int(index.min()) < 0 or int(index.max()) >= groups):
        raise ValueError(f"index must lie in [0, {groups}), got {int(index.min())} .. {int(index.max())}")
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
    cells = torch.empty(len(points), width, dtype=torch.int32)
    bad = _native.cells_of_points(points, batch, origin, size, cells)
    if bad >= 0:
        raise ValueError(
            f"voxelize: points must be finite and within int32 cells of their voxel size, got {points[bad].tolist()} in row {bad}"
        )
    coords, voxel_of_point, order, offsets = _runs(cells)
    return coords, voxel_of_point, order, offsets


def unique_coords(coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows of coords [N, 1 + D] in lexicographic order, and where each stood: order [N] and offsets [M + 1]."""
    unique, _, order, offsets = _runs(coords)
    return unique, order, offsets


def _runs(cells: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distinct rows of cells [N, W], the distinct row of each row, and the rows of each distinct one: order, offsets."""
    n, width = cells.shape
    if n == 0:
        empty = torch.empty(0, dtype=torch.int64)
        return cells.clone(), empty, empty.clone(), torch.zeros(1, dtype=torch.int64)
    layout = _native.key_layout(*_native.bounds(cells))
    keys, rows = _sorted_keys(cells, layout, [1] * width)
    if rows is None:
        rows = torch.arange(n, dtype=torch.int32)
    offsets, run_of_row, run_keys = _native.split_runs(keys, rows)
    unique = torch.empty(len(run_keys), width, dtype=torch.int32)
    _native.unpack(run_keys, layout, unique)
    return unique, run_of_row, rows.to(torch.int64), offsets
