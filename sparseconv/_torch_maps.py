# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Sites and pairs in torch's own operators, for tensors on a device that the core has no loops for: today every GPU.

Each function gives the rows, and their order, of the one of its name in `mapping` or `pairing`. Keys are sorted by torch's radix
sort and looked up by binary search; every step is deterministic. The host waits for each number of rows that a result has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._native import KeyLayout


def needed(array: Tensor) -> bool:
    """Whether an array lies where the core has no loops."""
    return array.device.type != "cpu"


def bounds(coords: Tensor) -> tuple[list[int], list[int]]:
    """See `_native.bounds`."""
    low, high = torch.stack(torch.aminmax(coords, dim=0)).tolist()
    return low, high


def pack(coords: Tensor, layout: KeyLayout, scale: Sequence[int]) -> Tensor:
    """The keys of coords * scale, int64 [N]."""
    fields = len(layout) // 3
    low, shift = layout[:fields], layout[fields : 2 * fields]
    keys = torch.zeros(len(coords), dtype=torch.int64, device=coords.device)
    for field, column in enumerate(coords.to(torch.int64).unbind(1)):
        keys += (column * scale[field] - low[field]) << shift[field]
    return keys


def _field(keys: Tensor, layout: KeyLayout, field: int) -> Tensor:
    fields = len(layout) // 3
    low, shift, bits = (layout[field + part * fields] for part in range(3))
    return ((keys >> shift) & ((1 << bits) - 1)) + low


def unpack(keys: Tensor, layout: KeyLayout) -> Tensor:
    """The coordinates of keys, int32 [N, 1 + D]."""
    columns = [_field(keys, layout, field) for field in range(len(layout) // 3)]
    return torch.stack(columns, 1).to(torch.int32)


def find_duplicate(coords: Tensor, layout: KeyLayout) -> tuple[int, int] | None:
    """See `mapping.find_duplicate`."""
    keys, order = torch.sort(pack(coords, layout, [1] * coords.shape[1]), stable=True)
    later = order[1:][keys[1:] == keys[:-1]]
    if len(later) == 0:
        return None
    second = int(later.min())
    same = (coords == coords[second]).all(1).nonzero()[:, 0]
    return int(same[same < second].max()), second


def output_coords(
    coords: Tensor,
    layout: KeyLayout,
    relations: Sequence[Sequence[int]],
    to_fine: bool,
    ranges: Sequence[tuple[int, int]],
) -> Tensor:
    """See `mapping.output_coords`; ranges: lowest and highest output per axis."""
    fields = len(layout) // 3
    keys = pack(coords, layout, [1] * fields)
    for axis, ((kernel, stride, padding, dilation), (low, high)) in enumerate(
        zip(relations, ranges, strict=True)
    ):
        value = _field(keys, layout, axis + 1)
        reach = dilation * torch.arange(kernel, device=coords.device)[:, None]
        if to_fine:
            to = value * stride - padding + reach
            met = (to >= low) & (to <= high)
        else:
            reached = value + padding - reach
            to = torch.div(reached, stride, rounding_mode="floor")
            met = (to * stride == reached) & (to >= low) & (to <= high)
        keys = torch.unique((keys + ((to - value) << layout[fields + axis + 1]))[met])
    return unpack(keys, layout)


def find_pairs(
    fine: Tensor,
    coarse: Tensor,
    taps: Tensor,
    layout: KeyLayout,
    scales: Sequence[Sequence[int]],
    padding: Sequence[int],
    dilation: Sequence[int],
    table_bytes: int,
) -> tuple[Tensor, Tensor]:
    """See `pairing.find_pairs`; at most about `table_bytes` of working memory for each of a few tables."""
    shift = layout[len(layout) // 3 + 1 : 2 * (len(layout) // 3)]
    keys, order = torch.sort(pack(fine, layout, scales[0]))
    rows = order.to(torch.int32)
    queries = pack(coarse, layout, scales[1])
    device_taps = taps.to(fine.device, torch.int64)
    deltas = queries.new_zeros(len(taps))
    for axis, column in enumerate(device_taps.unbind(1)):
        deltas += (column * dilation[axis] - padding[axis]) * (1 << shift[axis])
    pairs, counts = [], []
    for part in deltas.split(max(1, table_bytes // (8 * len(coarse)))):
        wanted = queries + part[:, None]
        place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        found = keys[place] == wanted
        counts.append(found.sum(1))
        tap, column = found.nonzero().unbind(1)  # ordered by (tap, coarse row)
        pairs.append(torch.stack([rows[place[tap, column]], column.to(torch.int32)], 1))
    offsets = torch.zeros(len(taps) + 1, dtype=torch.int64, device=fine.device)
    torch.cumsum(torch.cat(counts), 0, out=offsets[1:])
    return torch.cat(pairs), offsets


def _tap_of_pair(pairs: Tensor, tap_offsets: Tensor) -> Tensor:
    taps = torch.arange(len(tap_offsets) - 1, device=pairs.device)
    return taps.repeat_interleave(tap_offsets.diff(), output_size=len(pairs))


def reverse_pairs(pairs: Tensor, tap_offsets: Tensor, n_in: int) -> tuple[Tensor, Tensor]:
    """See `pairing.reverse_pairs`."""
    order = torch.argsort(_tap_of_pair(pairs, tap_offsets) * n_in + pairs[:, 0])
    return pairs[order].flip(1).contiguous(), tap_offsets.clone()


def neighbor_table(pairs: Tensor, tap_offsets: Tensor, n_out: int) -> Tensor:
    """See `pairing.neighbor_table`."""
    table = pairs.new_full((len(tap_offsets) - 1, n_out), -1)
    table[_tap_of_pair(pairs, tap_offsets), pairs[:, 1].long()] = pairs[:, 0]
    return table


def pairs_sorted(pairs: Tensor, tap_offsets: Tensor, column: int) -> bool:
    """Whether that column strictly increases within each tap."""
    tap = _tap_of_pair(pairs, tap_offsets)
    rises = pairs[1:, column] > pairs[:-1, column]
    return bool((rises | (tap[1:] != tap[:-1])).all())


def find_rows(coords: Tensor, queries: Tensor, layout: KeyLayout) -> Tensor:
    """See `mapping.find_rows`."""
    ones = [1] * coords.shape[1]
    keys, order = torch.sort(pack(coords, layout, ones), stable=True)
    wanted = pack(queries, layout, ones)
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, order[place], -1)


def group_rows(index: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """See `mapping.group_rows`."""
    keys, order = torch.sort(index, stable=True)
    return order, torch.searchsorted(keys, torch.arange(groups + 1, device=index.device))


def cells_of_points(
    points: Tensor, batch: Tensor | None, origin: Sequence[float], size: Sequence[float]
) -> tuple[Tensor, int]:
    """Cells int32 [N, 1 + D] of points [N, D], and the first point that has none, or -1."""
    start, step = (torch.tensor(v, dtype=torch.float64, device=points.device) for v in (origin, size))
    cells = torch.floor((points.double() - start) / step)
    fits = (cells >= -(2.0**31)) & (cells <= 2.0**31 - 1)  # False for NaN too
    bad = (~fits.all(1)).nonzero()[:1]
    column = batch if batch is not None else torch.zeros(len(points), dtype=torch.int32, device=points.device)
    whole = torch.where(fits, cells, 0.0).to(torch.int32)
    return torch.cat([column[:, None].to(torch.int32), whole], 1), int(bad) if len(bad) else -1


def runs(cells: Tensor, layout: KeyLayout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `mapping._runs`."""
    keys, order = torch.sort(pack(cells, layout, [1] * cells.shape[1]), stable=True)
    distinct, run, counts = torch.unique_consecutive(keys, return_inverse=True, return_counts=True)
    run_of_row = torch.empty_like(run)
    run_of_row[order] = run
    offsets = torch.zeros(len(counts) + 1, dtype=torch.int64, device=cells.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    return unpack(distinct, layout), run_of_row, order, offsets
