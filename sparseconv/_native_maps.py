# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The compiled core's functions on sites, neighbours and pairs; `_native` says how arguments travel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._native import KeyLayout, buffer, core, device_of, optional
from ._scratch import scratch


def move_axis(
    keys: Tensor,
    layout: KeyLayout,
    field: int,
    relation: Sequence[int],
    to_fine: bool,
    low: int,
    high: int,
    counts: Tensor,
    starts: Tensor | None = None,
    out: Tensor | None = None,
) -> None:
    """Sorted keys through one axis of a layer (csrc/mapping/sites.h): counts per chunk, or with `starts` the keys."""
    device = device_of(keys)
    core.move_axis(
        device,
        buffer(keys),
        layout,
        field,
        relation,
        to_fine,
        low,
        high,
        buffer(counts),
        optional(starts),
        optional(out),
    )


def find_neighbors_hash(
    fine_keys: Tensor,
    queries: Tensor,
    layout: KeyLayout,
    taps: Tensor,
    padding: Sequence[int],
    dilation: Sequence[int],
    neighbors: Tensor,
) -> None:
    """Fills neighbors [K, N] int32: the row of fine_keys that each query reads through each tap, -1 for none."""
    capacity = core.hash_capacity(len(fine_keys))
    table_keys = torch.empty(capacity, dtype=torch.int64)
    table_rows = torch.empty(capacity, dtype=torch.int32)
    core.find_neighbors_hash(
        device_of(fine_keys),
        buffer(fine_keys),
        buffer(queries),
        layout,
        buffer(taps),
        padding,
        dilation,
        buffer(table_keys),
        buffer(table_rows),
        buffer(neighbors),
    )


class MatchedPairs:
    """Pairs of sorted lists, found and counted but not yet in their place (csrc/mapping/match.h)."""

    def __init__(
        self,
        fine_keys: Tensor,
        queries: Tensor,
        n: int,
        layout: KeyLayout,
        taps: Tensor,
        padding: Sequence[int],
        dilation: Sequence[int],
        mirrored: bool,
    ) -> None:
        """fine_keys [N_fine + 1], whose last place is the core's, and queries [>= n] increase.

        mirrored: tap k and tap K - 1 - k are opposite and both sides are the same sites.
        """
        chunks, k = core.match_chunks(n), len(taps)
        slots = k // 2 if mirrored else k
        self.n, self.mirrored = n, mirrored
        self.found = scratch(8 * slots * n, 0)[: 8 * slots * n].view(torch.int32)
        self.counts = torch.empty(slots * chunks, dtype=torch.int64)
        self.starts = torch.empty(k * chunks, dtype=torch.int64)
        self.offsets = torch.empty(k + 1, dtype=torch.int64)
        core.match_sorted(
            device_of(fine_keys),
            buffer(fine_keys),
            buffer(queries),
            n,
            layout,
            buffer(taps),
            padding,
            dilation,
            mirrored,
            buffer(self.found),
            buffer(self.counts),
            buffer(self.starts),
            buffer(self.offsets),
        )

    def place(self) -> tuple[Tensor, Tensor]:
        """Where rows stand in the order of their keys: pairs int32 [P, 2] and offsets int64 [K + 1]."""
        pairs = torch.empty(int(self.offsets[-1]), 2, dtype=torch.int32)
        core.place_found(
            device_of(pairs),
            buffer(self.found),
            buffer(self.counts),
            self.n,
            self.mirrored,
            buffer(self.starts),
            buffer(self.offsets),
            buffer(pairs),
        )
        return pairs, self.offsets

    def tabulate(self, fine_rows: Tensor | None, query_rows: Tensor | None) -> Tensor:
        """The table of neighbours int32 [K, n]; rows int32: which row each key stands for, None = its place."""
        table = torch.empty(len(self.offsets) - 1, self.n, dtype=torch.int32)
        core.tabulate_found(
            device_of(table),
            buffer(self.found),
            buffer(self.counts),
            self.mirrored,
            optional(fine_rows),
            optional(query_rows),
            buffer(table),
        )
        return table


def mirrored_taps(taps: Tensor, layout: KeyLayout, padding: Sequence[int], dilation: Sequence[int]) -> bool:
    """Whether tap k and tap K - 1 - k of a layer with stride 1 are opposite, for all k."""
    both: bool = core.mirrored_taps(buffer(taps), layout, padding, dilation)
    return both


def strided_bytes(
    keys: Tensor, n: int, layout: KeyLayout, relations: Sequence[int], ranges: Sequence[int], clipped: bool
) -> int:
    """Address space that `strided_map` needs, -1 where its loops do not support the relation."""
    size: int = core.strided_bytes(buffer(keys), n, layout, relations, ranges, clipped)
    return size


def strided_map(
    keys: Tensor,
    rows: Tensor | None,
    n: int,
    layout: KeyLayout,
    relations: Sequence[int],
    ranges: Sequence[int],
    clipped: bool,
    taps: Tensor,
    size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output sites and pairs of a convolution from its sorted fine keys (csrc/mapping/strided.h).

    Args:
        keys: int64 [>= n], increasing; rows int32 [n], the row each stands for, None = its place.
        layout: holds the coarse cells too.
        relations: flat, (kernel, stride, padding, dilation) per axis.
        ranges: flat, (lowest, highest) output per axis; clipped: whether that drops any.
        taps: int32 [K, D].
        size: what `strided_bytes` says.

    Returns:
        coords int32 [M, 1 + D] in lexicographic order, pairs int32 [P, 2] and tap offsets int64 [K + 1].
    """
    shared = (device_of(keys), buffer(keys), n, layout, relations, ranges, clipped, buffer(taps))
    first = buffer(scratch(size, 0))
    second = buffer(scratch(core.strided_classify(*shared, first), 1))
    offsets = torch.empty(taps.shape[0] + 1, dtype=torch.int64)
    blocks = (first, second, buffer(offsets))
    sites = core.strided_merge(*shared, *blocks)
    coords = torch.empty(sites, taps.shape[1] + 1, dtype=torch.int32)
    pairs = torch.empty(int(offsets[-1]), 2, dtype=torch.int32)
    core.strided_write(*shared, *blocks, optional(rows), buffer(coords), buffer(pairs))
    return coords, pairs, offsets


def pairs_of_table(table: Tensor, column: int) -> tuple[Tensor, Tensor]:
    """pairs int32 [P, 2] in the table's order and offsets int64 [K + 1]; `column`: where the column's number goes."""
    taps, n = table.shape
    chunks = core.pair_chunks(n)
    counts = torch.empty(taps * chunks, dtype=torch.int64)
    core.count_pairs(device_of(table), buffer(table), buffer(counts))
    starts = torch.zeros(taps * chunks + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=starts[1:])
    pairs = torch.empty(int(starts[-1]), 2, dtype=torch.int32)
    core.write_pairs(device_of(table), buffer(table), buffer(starts[:-1]), column, buffer(pairs))
    offsets = starts[::chunks].clone() if chunks else torch.zeros(taps + 1, dtype=torch.int64)
    return pairs, offsets


def scatter_pairs(pairs: Tensor, tap_offsets: Tensor, key_column: int, table: Tensor) -> None:
    """The table [K, n] of pairs: table[k, pair[key_column]] = the pair's other entry, -1 elsewhere."""
    core.scatter_pairs(device_of(pairs), buffer(pairs), buffer(tap_offsets), key_column, buffer(table))


def pairs_sorted(pairs: Tensor, tap_offsets: Tensor, column: int) -> bool:
    """Whether the pairs of every tap strictly increase in `column`."""
    in_order: bool = core.pairs_sorted(buffer(pairs), buffer(tap_offsets), column)
    return in_order
