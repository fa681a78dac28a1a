# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs of a layer: how the core's loops find them, from sorted keys or through a hash table, and turn them round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import _cuda_pairs, _native, _native_maps
from .mapping import Bounds, Moved, bounds_of, moved_range, output_coords, sorted_keys

TABLE_BYTES = 256 << 20  # a table of neighbours is built for as many taps at a time as fit this
ADDRESS_SPACE = (
    1 << 30
)  # bytes set aside for pairs that are being found; only where there are some is memory touched


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
        bounds = bounds or bounds_of(coords)
        moved = Moved(bounds, relations, False, shape)
        if not moved.empty:
            layout = moved.layout(relations, False)
            if _native.on_gpu(coords):
                return _cuda_pairs.strided_map(coords, layout, relations, moved.ranges, taps)
            call = (
                n,
                layout,
                [number for axis in relations for number in axis],
                [end for axis in moved.ranges for end in axis],
                moved.clipped,
            )
            keys, rows = sorted_keys(coords, layout, [1] * coords.shape[1], 2)
            size = _native_maps.strided_bytes(keys, *call)
            if 0 <= size <= ADDRESS_SPACE:
                return _native_maps.strided_map(keys, rows, *call, taps, size)
    out = output_coords(coords, relations, False, shape, bounds)
    return out, *find_pairs(coords, out, taps, relations, "sort", bounds)


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
        return fine.new_empty(0, 2), torch.zeros(len(taps) + 1, dtype=torch.int64, device=fine.device)
    stride, padding, dilation = ([relation[i] for relation in relations] for i in (1, 2, 3))
    same_sites = fine.data_ptr() == coarse.data_ptr() and len(fine) == len(coarse)
    fine_low, fine_high = fine_bounds or bounds_of(fine)
    coarse_low, coarse_high = (fine_low, fine_high) if same_sites else coarse_bounds or bounds_of(coarse)
    low, high = [min(fine_low[0], coarse_low[0])], [max(fine_high[0], coarse_high[0])]
    for axis, relation in enumerate(relations, start=1):
        # The fine cells read, and the coarse ones scaled: what a query is before the tap is added.
        first, last = moved_range(coarse_low[axis], coarse_high[axis], relation, True)
        low.append(min(fine_low[axis], first, coarse_low[axis] * relation[1]))
        high.append(max(fine_high[axis], last, coarse_high[axis] * relation[1]))
    layout = _native.key_layout(low, high)
    same_keys = same_sites and all(s == 1 for s in stride)
    scales = [1] * (1 + len(stride)), [1, *stride]
    if _native.on_gpu(fine):
        return _cuda_pairs.find_pairs(
            fine, coarse, taps, layout, scales, padding, dilation, method, same_keys
        )
    if method == "hash":
        return _pairs_by_hash(fine, coarse, taps, layout, scales, padding, dilation, same_keys)
    fine_keys, fine_rows = sorted_keys(fine, layout, scales[0], 2)
    queries, query_rows = (fine_keys, fine_rows) if same_keys else sorted_keys(coarse, layout, scales[1], 3)
    n = len(coarse)
    mirrored = same_keys and _native_maps.mirrored_taps(taps, layout, padding, dilation)
    table_fits = (fine_rows is None and query_rows is None) or 4 * len(taps) * n <= TABLE_BYTES

    def some(part: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
        match = _native_maps.MatchedPairs(fine_keys, queries, n, layout, part, padding, dilation, mirrored)
        if fine_rows is None and query_rows is None:
            return match.place()
        return _native_maps.pairs_of_table(match.tabulate(fine_rows, query_rows), 1)

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
        _native_maps.find_neighbors_hash(fine_keys, queries, layout, part, padding, dilation, table)
        return _native_maps.pairs_of_table(table, 1)

    return _by_groups(taps, TABLE_BYTES // (4 * len(coarse)), find)


def reverse_pairs(pairs: Tensor, tap_offsets: Tensor, n_in: int) -> tuple[Tensor, Tensor]:
    """The same pairs with their columns swapped, (out row, in row), sorted by (tap, in row)."""
    if _native.on_gpu(pairs):
        return _cuda_pairs.reverse_pairs(pairs, tap_offsets, n_in)
    if _native_maps.pairs_sorted(pairs, tap_offsets, 0):
        return torch.stack(
            [pairs[:, 1], pairs[:, 0]], 1
        ), tap_offsets.clone()  # flip(1) takes three times as long
    taps = len(tap_offsets) - 1
    group = max(1, TABLE_BYTES // (4 * max(n_in, 1)))
    parts = []
    for first in range(0, taps, group):
        last = min(first + group, taps)
        begin, end = int(tap_offsets[first]), int(tap_offsets[last])
        table = torch.empty(last - first, n_in, dtype=torch.int32)
        _native_maps.scatter_pairs(pairs[begin:end], tap_offsets[first : last + 1] - begin, 0, table)
        parts.append(_native_maps.pairs_of_table(table, 1)[0])
    return torch.cat(parts) if len(parts) != 1 else parts[0], tap_offsets.clone()


def neighbor_table(pairs: Tensor, tap_offsets: Tensor, n_out: int) -> Tensor:
    """neighbors [K, n_out] int32: the in row that each out row reads through each tap, -1 for none."""
    if _native.on_gpu(pairs):
        return _cuda_pairs.neighbor_table(pairs, tap_offsets, n_out)
    table = torch.empty(len(tap_offsets) - 1, n_out, dtype=torch.int32)
    _native_maps.scatter_pairs(pairs, tap_offsets, 1, table)
    return table


def pairs_sorted(pairs: Tensor, tap_offsets: Tensor, column: int) -> bool:
    """Whether that column of pairs strictly increases within each tap."""
    if _native.on_gpu(pairs):
        return _cuda_pairs.pairs_sorted(pairs, tap_offsets, column)
    return _native_maps.pairs_sorted(pairs, tap_offsets, column)
