# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Sites and points on a GPU: what `mapping` does with the CPU's loops, by kernels (csrc/bind/bind_mapping_cuda.h).

Each function gives the rows, and their order, of the one of its name there. Sums over counts, bounds and a few sorts are torch's
own operators, on the same stream. The host waits once where a function returns numbers or as many rows as it finds, and never
in `find_rows` and `group_rows`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _native
from ._cuda_keys import look_up, pack, sort, sort_rows, unpack
from ._native import INT32_MAX, KeyLayout, buffer, optional


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


def flat(ranges: Sequence[Sequence[int]]) -> list[int]:
    """Numbers of all axes in a row, as the core takes them."""
    return [number for axis in ranges for number in axis]


class Reached:
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
        self.keys = pack(coords, layout)
        relation = flat(relations)
        candidates = self.keys.new_empty(len(coords) * core.reach_width(relation, to_fine))
        core.reach_keys(
            device, buffer(self.keys), layout, relation, to_fine, flat(ranges), buffer(candidates)
        )
        # one bit more: what reaches nothing stands last
        self.sorted = sort(candidates, min(_native.key_bits(layout) + 1, 64))
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
    reached = Reached(coords, layout, relations, to_fine, ranges)
    return unpack(reached.out_keys(int(reached.ends[-1])), layout)


def find_rows(coords: Tensor, queries: Tensor, layout: KeyLayout) -> Tensor:
    """See `mapping.find_rows`."""
    centre = torch.zeros(1, dtype=torch.int64, device=coords.device)
    return look_up(pack(coords, layout), pack(queries, layout), centre)[0].to(torch.int64)


def group_rows(index: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """See `mapping.group_rows`."""
    keys, rows = sort_rows(index, max(groups - 1, 1).bit_length())
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
    keys, rows = sort_rows(pack(cells, layout), _native.key_bits(layout))
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
    return unpack(run_keys, layout), run_of_row, rows.to(torch.int64), offsets
