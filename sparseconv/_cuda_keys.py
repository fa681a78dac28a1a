# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Keys on a GPU: packed, sorted, looked up; see `_native` for the same on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _native
from ._native import KeyLayout, buffer


def pack(coords: Tensor, layout: KeyLayout, scale: Sequence[int] | None = None) -> Tensor:
    """The keys of coords * scale, int64 [N]."""
    core, device = _native.gpu(coords)
    keys = torch.empty(len(coords), dtype=torch.int64, device=coords.device)
    core.pack(device, buffer(coords), layout, scale or [1] * coords.shape[1], buffer(keys))
    return keys


def unpack(keys: Tensor, layout: KeyLayout) -> Tensor:
    """The coordinates of keys, int32 [N, 1 + D]."""
    core, device = _native.gpu(keys)
    coords = torch.empty(len(keys), len(layout) // 3, dtype=torch.int32, device=keys.device)
    core.unpack(device, buffer(keys), layout, buffer(coords))
    return coords


def look_up(keys: Tensor, queries: Tensor, deltas: Tensor, by_halves: bool = False) -> Tensor:
    """The row of the key queries[q] + deltas[k], int32 [K, Q], -1 for none; keys are distinct.

    by_halves: queries are the keys and tap K - 1 - k is tap k turned round, so that half of the taps give the others too.
    """
    core, device = _native.gpu(keys)
    shape = len(deltas), len(queries)
    rows_of_queries = torch.empty(shape, dtype=torch.int32, device=keys.device)
    if by_halves:
        rows_of_queries.fill_(-1)
    slots = keys.new_empty(core.hash_capacity(len(keys)))
    rows = rows_of_queries.new_empty(len(slots))
    core.find_neighbors_hash(
        device,
        buffer(keys),
        buffer(queries),
        buffer(deltas),
        by_halves,
        buffer(slots),
        buffer(rows),
        buffer(rows_of_queries),
    )
    return rows_of_queries


def _scratch(core: Any, keys: Tensor, with_rows: bool) -> object:
    size = core.sort_bytes(len(keys), with_rows)
    return buffer(torch.empty(size, dtype=torch.uint8, device=keys.device))


def sort(keys: Tensor, bits: int) -> Tensor:
    """Keys in increasing order; only their low `bits` bits may differ."""
    core, device = _native.gpu(keys)
    out = torch.empty_like(keys)
    core.sort_keys(device, buffer(keys), None, bits, buffer(out), None, _scratch(core, keys, False))
    return out


def sort_rows(keys: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The same, and the row of each, int32; stable."""
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
