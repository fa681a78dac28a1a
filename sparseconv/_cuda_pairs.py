# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs on a GPU: what `pairing` does with the CPU's loops, by kernels (csrc/bind/bind_mapping_cuda.h).

Each function gives the pairs, and their order, of the one of its name there. The host waits for `strided_map`, `find_pairs` and
`pairs_sorted` once, to know how many there are, and never for `reverse_pairs` and `neighbor_table`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _native
from ._cuda_keys import look_up, pack, sort_rows, unpack
from ._cuda_sites import Reached, flat
from ._native import KeyLayout, buffer


def strided_map(
    coords: Tensor,
    layout: KeyLayout,
    relations: Sequence[Sequence[int]],
    ranges: Sequence[tuple[int, int]],
    taps: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `pairing.strided_map`; N > 0. An input meets its outputs, so that pairs are counted before outputs have rows."""
    reached = Reached(coords, layout, relations, False, ranges)
    core, device = reached.core, reached.device
    there = taps.to(coords.device, non_blocking=True)
    layer = (buffer(reached.keys), buffer(there), layout, flat(relations), flat(ranges))
    met = torch.empty(len(taps) * len(coords), dtype=torch.uint8, device=coords.device)
    core.mark_reached(device, *layer, buffer(met))
    n_out, n_pairs = torch.stack([reached.ends[-1], met.sum(dtype=torch.int64)]).tolist()
    out_keys = reached.out_keys(n_out)
    table = coords.new_full((len(taps), n_out), -1)
    core.tabulate_reached(device, *layer, buffer(out_keys), buffer(table))
    return unpack(out_keys, layout), *_pairs_of_table(table, 1, n_pairs)


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
    keys = pack(fine, layout, scales[0])
    queries = keys if same_keys else pack(coarse, layout, scales[1])
    deltas, mirrored = _deltas(taps, layout, padding, dilation)
    there = deltas.to(fine.device, non_blocking=True)
    if method == "sort":
        table = fine.new_empty(len(taps), len(coarse))
        sorted_keys, rows = sort_rows(keys, _native.key_bits(layout))
        core.find_neighbors_sorted(
            device, buffer(sorted_keys), buffer(rows), buffer(queries), buffer(there), buffer(table)
        )
        return _pairs_of_table(table, 1)
    return _pairs_of_table(look_up(keys, queries, there, mirrored and same_keys), 1)


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
