# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Operators that make sites, pairs and voxels. Relations travel flat: (kernel, stride, padding, dilation) per axis."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import mapping, pairing
from ._library import define, unwatched


def _axes(flat: list[int]) -> list[list[int]]:
    return [flat[i : i + 4] for i in range(0, len(flat), 4)]


def _split(bounds: list[int] | None) -> mapping.Bounds | None:
    """Bounds travel flat too: the lowest value of each column, then the highest."""
    return None if bounds is None else (bounds[: len(bounds) // 2], bounds[len(bounds) // 2 :])


def _output_coords(
    coords: Tensor,
    relations: list[int],
    to_fine: bool,
    shape: list[int] | None,
    bounds: list[int] | None = None,
) -> Tensor:
    return mapping.output_coords(coords, _axes(relations), to_fine, shape, _split(bounds))


def _output_coords_fake(
    coords: Tensor,
    relations: list[int],
    to_fine: bool,
    shape: list[int] | None,
    bounds: list[int] | None = None,
) -> Tensor:
    return coords.new_empty(torch.library.get_ctx().new_dynamic_size(), coords.shape[1])


def _find_pairs(
    fine: Tensor, coarse: Tensor, taps: Tensor, relations: list[int], method: str, *bounds: list[int] | None
) -> tuple[Tensor, Tensor]:
    return pairing.find_pairs(fine, coarse, taps, _axes(relations), method, *map(_split, bounds))


def _find_pairs_fake(
    fine: Tensor, coarse: Tensor, taps: Tensor, relations: list[int], method: str, *bounds: list[int] | None
) -> tuple[Tensor, Tensor]:
    pairs = fine.new_empty(torch.library.get_ctx().new_dynamic_size(), 2)
    return pairs, fine.new_empty(taps.shape[0] + 1, dtype=torch.int64)


def _strided_map(
    coords: Tensor,
    taps: Tensor,
    relations: list[int],
    shape: list[int] | None,
    bounds: list[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    return pairing.strided_map(coords, taps, _axes(relations), shape, _split(bounds))


def _strided_map_fake(
    coords: Tensor,
    taps: Tensor,
    relations: list[int],
    shape: list[int] | None,
    bounds: list[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    sites = coords.new_empty(torch.library.get_ctx().new_dynamic_size(), coords.shape[1])
    pairs = coords.new_empty(torch.library.get_ctx().new_dynamic_size(), 2)
    return sites, pairs, coords.new_empty(taps.shape[0] + 1, dtype=torch.int64)


def _reverse_pairs_fake(pairs: Tensor, tap_offsets: Tensor, n_in: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(pairs), torch.empty_like(tap_offsets)


define(
    "output_coords(Tensor coords, int[] relations, bool to_fine, int[]? shape, int[]? bounds=None) -> Tensor",
    _output_coords,
    _output_coords_fake,
)
define(
    "find_pairs(Tensor fine, Tensor coarse, Tensor taps, int[] relations, str method, int[]? fine_bounds=None, "
    "int[]? coarse_bounds=None) -> (Tensor, Tensor)",
    _find_pairs,
    _find_pairs_fake,
)
define(
    "strided_map(Tensor coords, Tensor taps, int[] relations, int[]? shape, int[]? bounds=None) "
    "-> (Tensor, Tensor, Tensor)",
    _strided_map,
    _strided_map_fake,
)
define(
    "reverse_pairs(Tensor pairs, Tensor tap_offsets, SymInt n_in) -> (Tensor, Tensor)",
    pairing.reverse_pairs,
    _reverse_pairs_fake,
)


def _find_rows_fake(coords: Tensor, queries: Tensor) -> Tensor:
    return queries.new_empty(queries.shape[0], dtype=torch.int64)


def _unique_coords_fake(coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.library.get_ctx().new_dynamic_size()
    order = coords.new_empty(coords.shape[0], dtype=torch.int64)
    return coords.new_empty(rows, coords.shape[1]), order, coords.new_empty(rows + 1, dtype=torch.int64)


def _voxel_runs_fake(
    points: Tensor, batch: Tensor | None, origin: list[float], size: list[float]
) -> tuple[Tensor, ...]:
    voxels = torch.library.get_ctx().new_dynamic_size()
    rows = points.new_empty(points.shape[0], dtype=torch.int64)
    coords = points.new_empty(voxels, points.shape[1] + 1, dtype=torch.int32)
    return coords, rows, torch.empty_like(rows), points.new_empty(voxels + 1, dtype=torch.int64)


define("find_rows(Tensor coords, Tensor queries) -> Tensor", mapping.find_rows, _find_rows_fake)
define("unique_coords(Tensor coords) -> (Tensor, Tensor, Tensor)", mapping.unique_coords, _unique_coords_fake)
define(
    "voxel_runs(Tensor points, Tensor? batch, float[] origin, float[] size) -> (Tensor, Tensor, Tensor, Tensor)",
    mapping.voxel_runs,
    _voxel_runs_fake,
)


def strided_map(
    coords: Tensor,
    taps: Tensor,
    relations: list[list[int]],
    shape: list[int] | None,
    bounds: list[int] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator of this name, with the dispatcher left out where nobody would notice; relations not flat."""
    if unwatched(coords, taps):
        return pairing.strided_map(coords, taps, relations, shape, _split(bounds))
    flat = [number for axis in relations for number in axis]
    made: tuple[Tensor, Tensor, Tensor] = torch.ops.sparseconv.strided_map(coords, taps, flat, shape, bounds)
    return made
