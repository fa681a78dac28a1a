# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Points to voxels in the order in which the points come, truncated in voxels and in points per voxel.

What detectors are trained on: a voxel keeps its points one by one, the network averages them. `voxelize` is the other
way: sorted, nothing truncated, differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _native


class Grid:
    """A box of cells. Axes are listed as points have them (x first) and kept as cells have them (x last)."""

    def __init__(self, voxel_size: Sequence[float], bounds: Sequence[float]) -> None:
        """Args: voxel_size, D edges; bounds, D lower then D upper ends; D from 1 to 4.

        Numbers are rounded to float32, in which cells are computed. Raises ValueError where they are not finite, an edge is
        not positive or the box holds no cell.
        """
        ndim = len(voxel_size)
        if not 1 <= ndim <= 4 or len(bounds) != 2 * ndim:
            raise ValueError(
                f"expected 1 to 4 voxel edges and twice as many bounds, got {list(voxel_size)} and {list(bounds)}"
            )
        numbers = torch.tensor([*map(float, voxel_size), *map(float, bounds)], dtype=torch.float32)
        values = numbers.tolist()
        if not all(map(math.isfinite, values)) or min(values[:ndim]) <= 0:
            raise ValueError(
                f"voxel edges must be positive and bounds finite, got {list(voxel_size)} and {list(bounds)}"
            )
        size, low, high = numbers[:ndim], numbers[ndim : 2 * ndim], numbers[2 * ndim :]
        spans = ((high - low) / size).tolist()
        self.size: list[float] = size.tolist()[::-1]
        self.low: list[float] = low.tolist()[::-1]
        self.high: list[float] = high.tolist()[::-1]
        # Halves are rounded away from zero, as C's round does.
        self.shape = [math.floor(span + 0.5) for span in reversed(spans)]
        if min(self.shape) < 1 or math.prod(self.shape) >= 2**62 or max(self.shape) >= 2**31:
            raise ValueError(f"expected a grid of 1 to 2^62 cells, got {self.shape} (last axis first)")

    @property
    def strides(self) -> list[int]:
        """Steps of the linear index along each axis."""
        return [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]


def fill_voxels(
    points: Tensor,
    grid: Grid,
    voxels: Tensor,
    cells: Tensor,
    counts: Tensor,
    voxel_of_point: Tensor,
    *,
    clear: bool = True,
) -> int:
    """Put points into the leading rows of voxels; return how many voxels there are.

    Args:
        points: [N, F] float32 or float64, coordinates first. Those outside the grid or not finite are left out.
        voxels: float32 [max_voxels, max_points, F], written; the places without a point are zeroed if `clear`.
        cells: int32 [max_voxels, D], written: cells, the points' last coordinate first.
        counts: int32 [max_voxels], written: points kept in each voxel.
        voxel_of_point: int64 [N], written: also of points beyond max_points; -1 where there is no voxel.
    """
    if points.device.type == "cpu":
        return _native.first_come_voxels(
            points, grid.low, grid.size, grid.shape, clear, voxels, cells, counts, voxel_of_point
        )
    return _fill_by_sorting(points, grid, voxels, cells, counts, voxel_of_point, clear)


def _fill_by_sorting(
    points: Tensor,
    grid: Grid,
    voxels: Tensor,
    cells: Tensor,
    counts: Tensor,
    voxel_of_point: Tensor,
    clear: bool,
) -> int:
    """The same rows in parallel steps, for devices where a loop over the points is slow."""
    max_voxels, max_points = voxels.shape[:2]
    ndim, device = len(grid.shape), points.device
    place = points[:, :ndim].flip(1) - torch.tensor(grid.low, dtype=torch.float32, device=device)
    place = (place / torch.tensor(grid.size, dtype=torch.float32, device=device)).floor()
    shape = torch.tensor(grid.shape, dtype=torch.int64, device=device)
    voxel_of_point.fill_(-1)
    near = ((place >= 0) & (place < 2.0**31)).all(1)
    cell = torch.where(near[:, None], place, torch.zeros_like(place)).to(torch.int64)
    rows = (near & (cell < shape).all(1)).nonzero()[:, 0]
    if len(rows) == 0:
        return 0
    cell = cell[rows]
    key = cell[:, 0]
    for axis in range(1, ndim):
        key = key * grid.shape[axis] + cell[:, axis]
    order = key.argsort(stable=True)
    _, run, length = key[order].unique_consecutive(return_inverse=True, return_counts=True)
    start = length.cumsum(0) - length
    first = order[start]  # of each run, its lowest row: the sort is stable
    by_arrival = first.argsort()
    voxel_of_run = torch.empty_like(by_arrival)
    voxel_of_run[by_arrival] = torch.arange(len(by_arrival), device=device)
    count = min(len(first), max_voxels)
    voxel, rank = voxel_of_run[run], torch.arange(len(order), device=device) - start[run]
    known = voxel < count
    voxel_of_point[rows[order[known]]] = voxel[known]
    made = by_arrival[:count]
    cells[:count] = cell[first[made]].to(torch.int32)
    counts[:count] = length[made].clamp(max=max_points).to(torch.int32)
    if clear:
        voxels[:count] = 0
    kept = known & (rank < max_points)
    voxels[voxel[kept], rank[kept]] = points[rows[order[kept]]].to(torch.float32)
    return count
