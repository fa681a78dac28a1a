# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Sites and pairs on a GPU: what `mapping` and `pairing` do with the CPU's loops, by kernels (csrc/bind/bind_mapping_cuda.h).

Each function gives the rows, and their order, of the one of its name there. Sums over counts, bounds and a few sorts are torch's
own operators, on the same stream. The host waits where a function reads a number back: `_native.bounds` and `find_pairs` once,
`strided_map` once, `reverse_pairs` and `neighbor_table` never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _native
from ._native import KeyLayout, buffer, optional

INT32_MAX = 2**31 - 1


def bounds(coords: Tensor) -> tuple[list[int], list[int]]:
    """See `_native.bounds`."""
    low, high = torch.stack(torch.aminmax(coords, dim=0)).tolist()
    return low, high


def bounds_and_repeat(coords: Tensor) -> tuple[list[int], list[int], int]:
    """`bounds`, and the lowest row that equals an earlier one, -1 for none; N > 0."""
    core, device = _native.gpu(coords)
    slots = coords.new_full((core.hash_capacity(len(coords)),), -1)
    first = coords.new_full((1,), INT32_MAX)
    core.find_repeat(device, buffer(coords), buffer(slots), buffer(first))
    *both, row = torch.cat([*torch.aminmax(coords, dim=0), first]).tolist()
    return both[: len(both) // 2], both[len(both) // 2 :], -1 if row == INT32_MAX else row


def find_duplicate(coords: Tensor, repeat: int | None) -> tuple[int, int] | None:
    """See `mapping.find_duplicate`."""
    if repeat is None:
        *_, repeat = bounds_and_repeat(coords)
    if repeat < 0:
        return None
    same = (coords[:repeat] == coords[repeat]).all(1).nonzero()
    return int(same[0, 0]), repeat


def _pack(coords: Tensor, layout: KeyLayout, scale: Sequence[int] | None = None) -> Tensor:
    """The keys of coords * scale, int64 [N]."""
    core, device = _native.gpu(coords)
    keys = torch.empty(len(coords), dtype=torch.int64, device=coords.device)
    core.pack(device, buffer(coords), layout, scale or [1] * coords.shape[1], buffer(keys))
    return keys


def _unpack(keys: Tensor, layout: KeyLayout) -> Tensor:
    """The coordinates of keys, int32 [N, 1 + D]."""
    core, device = _native.gpu(keys)
    coords = torch.empty(len(keys), len(layout) // 3, dtype=torch.int32, device=keys.device)
    core.unpack(device, buffer(keys), layout, buffer(coords))
    return coords


def _scratch(core: Any, keys: Tensor, with_rows: bool) -> object:
    size = core.sort_bytes(len(keys), with_rows)
    return buffer(torch.empty(size, dtype=torch.uint8, device=keys.device))


def _sort(keys: Tensor, bits: int) -> Tensor:
    core, device = _native.gpu(keys)
    out = torch.empty_like(keys)
    core.sort_keys(device, buffer(keys), None, bits, buffer(out), None, _scratch(core, keys, False))
    return out


def _sort_rows(keys: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Keys in order, and the row of each, int32."""
    core, device = _native.gpu(keys)
    rows = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
    sorted_keys, sorted_rows = torch.empty_like(keys), torch.empty_like(rows)
    core.sort_keys(
        device,
        buffer(keys),
        buffer(rows),
        bits,
        buffer(sorted_keys),
        buffer(sorted_rows),
        _scratch(core, keys, True),
    )
    return sorted_keys, sorted_rows


def _bits(layout: KeyLayout) -> int:
    fields = len(layout) // 3
    return layout[fields] + layout[2 * fields]


def _flat(ranges: Sequence[Sequence[int]]) -> list[int]:
    return [number for axis in ranges for number in axis]


# --- sites ------------------------------------------------------------------------------------------------------------------


class _Reached:
    """The outputs that the inputs of a layer reach, found but not yet counted on the host."""

    def __init__(
        self,
        coords: Tensor,
        layout: KeyLayout,
        relations: Sequence[Sequence[int]],
        to_fine: bool,
        ranges: Sequence[tuple[int, int]],
    ) -> None:
        core, device = _native.gpu(coords)
        self.core, self.device, self.layout = core, device, layout
        self.keys = _pack(coords, layout)
        flat = _flat(relations)
        candidates = self.keys.new_empty(len(coords) * core.reach_width(flat, to_fine))
        core.reach_keys(device, buffer(self.keys), layout, flat, to_fine, _flat(ranges), buffer(candidates))
        self.sorted = _sort(
            candidates, min(_bits(layout) + 1, 64)
        )  # one bit more: what reaches nothing stands last
        self.first = torch.empty(len(candidates), dtype=torch.uint8, device=coords.device)
        core.mark_distinct(device, buffer(self.sorted), buffer(self.first))
        self.ends = self.first.cumsum(0, dtype=torch.int64)

    def out_keys(self, n_out: int) -> Tensor:
        """The distinct ones, n_out = ends[-1], in increasing order."""
        out = self.keys.new_empty(n_out)
        self.core.place_distinct(
            self.device, buffer(self.sorted), buffer(self.first), buffer(self.ends), buffer(out)
        )
        return out


def output_coords(
    coords: Tensor,
    layout: KeyLayout,
    relations: Sequence[Sequence[int]],
    to_fine: bool,
    ranges: Sequence[tuple[int, int]],
) -> Tensor:
    """See `mapping.output_coords`; N > 0, ranges: lowest and highest output per axis."""
    reached = _Reached(coords, layout, relations, to_fine, ranges)
    return _unpack(reached.out_keys(int(reached.ends[-1])), layout)


def strided_map(
    coords: Tensor,
    layout: KeyLayout,
    relations: Sequence[Sequence[int]],
    ranges: Sequence[tuple[int, int]],
    taps: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `pairing.strided_map`; N > 0. An input meets its outputs, so that pairs are counted before outputs have rows."""
    reached = _Reached(coords, layout, relations, False, ranges)
    core, device = reached.core, reached.device
    there = taps.to(coords.device, non_blocking=True)
    layer = (buffer(reached.keys), buffer(there), layout, _flat(relations), _flat(ranges))
    met = torch.empty(len(taps) * len(coords), dtype=torch.uint8, device=coords.device)
    core.mark_reached(device, *layer, buffer(met))
    n_out, n_pairs = torch.stack([reached.ends[-1], met.sum(dtype=torch.int64)]).tolist()
    out_keys = reached.out_keys(n_out)
    table = coords.new_full((len(taps), n_out), -1)
    core.tabulate_reached(device, *layer, buffer(out_keys), buffer(table))
    return _unpack(out_keys, layout), *_pairs_of_table(table, 1, n_pairs)


# --- pairs ------------------------------------------------------------------------------------------------------------------


def _pairs_of_table(table: Tensor, column: int, n_pairs: int | None = None) -> tuple[Tensor, Tensor]:
    """Pairs of a table [K, N] sorted by (tap, column), the table's column in that column, and their tap offsets.

    n_pairs: how many there are, where the host knows.
    """
    core, device = _native.gpu(table)
    taps, n = table.shape
    offsets = torch.zeros(taps + 1, dtype=torch.int64, device=table.device)
    if table.numel() == 0:
        return table.new_empty(0, 2), offsets
    counts = offsets.new_empty(taps, core.pair_chunks(n))
    core.count_pairs(device, buffer(table), buffer(counts))
    ends = counts.view(-1).cumsum(0)
    offsets[1:] = ends.view_as(counts)[:, -1]
    pairs = table.new_empty(int(ends[-1]) if n_pairs is None else n_pairs, 2)
    core.write_pairs(device, buffer(table), buffer(counts), buffer(ends), column, buffer(pairs))
    return pairs, offsets


def find_pairs(
    fine: Tensor,
    coarse: Tensor,
    taps: Tensor,
    layout: KeyLayout,
    scales: Sequence[Sequence[int]],
    padding: Sequence[int],
    dilation: Sequence[int],
    method: str,
    same_keys: bool,
) -> tuple[Tensor, Tensor]:
    """See `pairing.find_pairs`; "auto" is "hash". same_keys: both sides have the same rows and keys."""
    core, device = _native.gpu(fine)
    keys = _pack(fine, layout, scales[0])
    queries = keys if same_keys else _pack(coarse, layout, scales[1])
    deltas, mirrored = _deltas(taps, layout, padding, dilation)
    there = deltas.to(fine.device, non_blocking=True)
    if method == "sort":
        table = fine.new_empty(len(taps), len(coarse))
        sorted_keys, rows = _sort_rows(keys, _bits(layout))
        core.find_neighbors_sorted(
            device, buffer(sorted_keys), buffer(rows), buffer(queries), buffer(there), buffer(table)
        )
        return _pairs_of_table(table, 1)
    by_halves = mirrored and same_keys
    table = (
        fine.new_full((len(taps), len(coarse)), -1) if by_halves else fine.new_empty(len(taps), len(coarse))
    )
    _look_up(keys, queries, there, by_halves, table)
    return _pairs_of_table(table, 1)


def _look_up(keys: Tensor, queries: Tensor, deltas: Tensor, by_halves: bool, table: Tensor) -> None:
    core, device = _native.gpu(keys)
    slots = keys.new_empty(core.hash_capacity(len(keys)))
    rows = table.new_empty(len(slots))
    core.find_neighbors_hash(
        device,
        buffer(keys),
        buffer(queries),
        buffer(deltas),
        by_halves,
        buffer(slots),
        buffer(rows),
        buffer(table),
    )


def _deltas(
    taps: Tensor, layout: KeyLayout, padding: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, bool]:
    """What each tap adds to a key, int64 [K] on the host, and whether tap k and tap K - 1 - k are opposite for all k."""
    axes = len(padding)
    shifts = layout[axes + 2 : 2 * axes + 2]
    steps = taps.cpu().long() * torch.tensor(dilation) - torch.tensor(padding)
    deltas = (steps * torch.tensor([1 << shift for shift in shifts])).sum(1)
    return deltas, not bool((steps + steps.flip(0)).any())


def _table_of_pairs(pairs: Tensor, tap_offsets: Tensor, column: int, n: int) -> Tensor:
    core, device = _native.gpu(pairs)
    table = pairs.new_full((len(tap_offsets) - 1, n), -1)
    core.scatter_pairs(device, buffer(pairs), buffer(tap_offsets), column, buffer(table))
    return table


def reverse_pairs(pairs: Tensor, tap_offsets: Tensor, n_in: int) -> tuple[Tensor, Tensor]:
    """See `pairing.reverse_pairs`."""
    table = _table_of_pairs(pairs, tap_offsets, 0, n_in)
    return _pairs_of_table(table, 1, len(pairs))[0], tap_offsets.clone()


def neighbor_table(pairs: Tensor, tap_offsets: Tensor, n_out: int) -> Tensor:
    """See `pairing.neighbor_table`."""
    return _table_of_pairs(pairs, tap_offsets, 1, n_out)


def pairs_sorted(pairs: Tensor, tap_offsets: Tensor, column: int) -> bool:
    """Whether that column strictly increases within each tap."""
    taps = torch.arange(len(tap_offsets) - 1, device=pairs.device)
    tap = taps.repeat_interleave(tap_offsets.diff(), output_size=len(pairs))
    rises = pairs[1:, column] > pairs[:-1, column]
    return bool((rises | (tap[1:] != tap[:-1])).all())


# --- rows and points ----------------------------------------------------------------------------------------------------------


def find_rows(coords: Tensor, queries: Tensor, layout: KeyLayout) -> Tensor:
    """See `mapping.find_rows`."""
    table = coords.new_empty(1, len(queries))
    centre = torch.zeros(1, dtype=torch.int64, device=coords.device)
    _look_up(_pack(coords, layout), _pack(queries, layout), centre, False, table)
    return table[0].to(torch.int64)


def group_rows(index: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """See `mapping.group_rows`."""
    keys, rows = _sort_rows(index, max(groups - 1, 1).bit_length())
    return rows.to(torch.int64), torch.searchsorted(keys, torch.arange(groups + 1, device=index.device))


def cells_of_points(
    points: Tensor, batch: Tensor | None, origin: Sequence[float], size: Sequence[float]
) -> tuple[Tensor, int, tuple[list[int], list[int]] | None]:
    """Cells int32 [N, 1 + D] of points [N, D], the first point that has none, or -1, and the bounds of the cells."""
    core, device = _native.gpu(points)
    cells = torch.empty(len(points), points.shape[1] + 1, dtype=torch.int32, device=points.device)
    if len(points) == 0:
        return cells, -1, None
    bad = torch.empty(len(points), dtype=torch.int64, device=points.device)
    core.cells_of_points(
        device, buffer(points), optional(batch), list(origin), list(size), buffer(cells), buffer(bad)
    )
    first = torch.where(bad < 0, INT32_MAX, bad).min()
    *both, row = torch.cat([*torch.aminmax(cells, dim=0), first[None]]).tolist()
    width = len(both) // 2
    return cells, -1 if row == INT32_MAX else row, (both[:width], both[width:])


def runs(cells: Tensor, layout: KeyLayout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `mapping._runs`; N > 0."""
    core, device = _native.gpu(cells)
    keys, rows = _sort_rows(_pack(cells, layout), _bits(layout))
    counts = torch.empty_like(keys)
    core.split_runs(device, buffer(keys), buffer(rows), buffer(counts), None, None, None, None)
    ends = counts.cumsum(0)
    n_runs = int(ends[-1])
    offsets = keys.new_full((n_runs + 1,), len(cells))
    run_of_row, run_keys = torch.empty_like(keys), keys.new_empty(n_runs)
    core.split_runs(
        device,
        buffer(keys),
        buffer(rows),
        buffer(counts),
        buffer(ends - counts),
        buffer(offsets),
        buffer(run_of_row),
        buffer(run_keys),
    )
    return _unpack(run_keys, layout), run_of_row, rows.to(torch.int64), offsets
