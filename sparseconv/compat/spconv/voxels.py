# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""spconv's voxel generators: `PointToVoxel` on torch tensors, `Point2VoxelCPU1d` to `4d` on arrays.

Both put points into voxels in the order in which they come and drop what exceeds max_num_voxels (later voxels) and
max_num_points_per_voxel (later points). Cells are listed last axis first: z, y, x of points x, y, z. With `empty_mean` the
free places of a voxel hold the mean of its kept points; spconv 2.3.8 means that too, but on the CPU begins each sum with the
mean of the voxel before, which we leave out.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...first_come import Grid, fill_voxels
from .tensorview import Tensor as ArrayTensor
from .tensorview import to_torch


class _Generator:
    """The arrays that every call writes anew, as spconv keeps them."""

    def __init__(
        self,
        voxel_size: Sequence[float],
        bounds: Sequence[float],
        features: int,
        max_voxels: int,
        max_points: int,
        device: torch.device,
    ) -> None:
        self.grid = Grid(voxel_size, bounds)
        sizes = [operator.index(n) for n in (features, max_voxels, max_points)]
        if min(sizes) < 1 or features < len(self.grid.shape):
            raise ValueError(
                f"expected at least one voxel and point per voxel and {len(self.grid.shape)} features per point or more, "
                f"got max_num_voxels={max_voxels}, max_num_points_per_voxel={max_points}, num_point_features={features}"
            )
        self.voxels = torch.zeros(max_voxels, max_points, features, device=device)
        self.cells = torch.zeros(max_voxels, len(self.grid.shape), dtype=torch.int32, device=device)
        self.counts = torch.zeros(max_voxels, dtype=torch.int32, device=device)
        self.used_voxels = self.used_counts = 0  # leading rows that may be other than zero

    def fill(self, points: Tensor, clear: bool, mean: bool, name: str) -> tuple[int, Tensor]:
        """The number of voxels, and the voxel of each point."""
        features = self.voxels.shape[2]
        if points.ndim != 2 or points.shape[1] != features:
            raise ValueError(f"{name}: points must be [N, {features}], got {list(points.shape)}")
        if points.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name}: points must be float32 or float64, got {points.dtype}")
        ids = torch.empty(len(points), dtype=torch.int64, device=points.device)
        points = points.detach().contiguous()
        n = fill_voxels(points, self.grid, self.voxels, self.cells, self.counts, ids, clear=clear)
        self.counts[n : self.used_counts] = 0
        self.used_counts = n
        if clear:
            self.voxels[n : self.used_voxels] = 0
        self.used_voxels = n if clear else max(n, self.used_voxels)
        if mean:
            self._fill_with_mean(n)
        return n, ids

    def _fill_with_mean(self, n: int) -> None:
        places = torch.arange(self.voxels.shape[1], device=self.counts.device)
        kept = (places < self.counts[:n, None])[:, :, None]
        voxels = self.voxels[:n]
        total = torch.zeros_like(voxels[:, 0])
        for place in range(voxels.shape[1]):  # one after another, as the loop over a voxel's points sums
            total += torch.where(kept[:, place], voxels[:, place], torch.zeros_like(total))
        mean = total / self.counts[:n, None]
        self.voxels[:n] = torch.where(kept, voxels, mean[:, None])


class PointToVoxel:
    """Voxels of points, spconv.pytorch.utils.PointToVoxel.

    Args: vsize_xyz, D edges; coors_range_xyz, D lower then D upper ends, D from 1 to 4; num_point_features, columns of
    a point, coordinates first; max_num_voxels; max_num_points_per_voxel; device. Raises ValueError for numbers that
    make no grid.
    """

    def __init__(
        self,
        vsize_xyz: Sequence[float],
        coors_range_xyz: Sequence[float],
        num_point_features: int,
        max_num_voxels: int,
        max_num_points_per_voxel: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        generator = _Generator(
            vsize_xyz,
            coors_range_xyz,
            num_point_features,
            max_num_voxels,
            max_num_points_per_voxel,
            self.device,
        )
        self._generator = generator
        grid = generator.grid
        self.ndim = len(grid.shape)
        self.num_point_features = num_point_features
        self.max_num_voxels = max_num_voxels
        self.max_num_points_per_voxel = max_num_points_per_voxel
        self.vsize, self.coors_range, self.grid_size = grid.size, grid.low + grid.high, grid.shape
        self.grid_stride = grid.strides
        self.voxels, self.indices = generator.voxels, generator.cells
        self.num_per_voxel = generator.counts

    def __call__(
        self, pc: Tensor, clear_voxels: bool = True, empty_mean: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Voxels float32 [V, max points, F], cells int32 [V, D] and points per voxel int32 [V] of points pc [N, F].

        clear_voxels=False leaves what earlier calls wrote in the places without a point.
        """
        return self.generate_voxel_with_id(pc, clear_voxels, empty_mean)[:3]

    def generate_voxel_with_id(
        self, pc: Tensor, clear_voxels: bool = True, empty_mean: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As a call, and the voxel of each point, int64 [N], -1 for none. Raises ValueError, TypeError for other points."""
        if not isinstance(pc, Tensor):
            raise TypeError(f"PointToVoxel: pc must be a torch.Tensor, got {type(pc).__name__}")
        if pc.device.type != self.device.type:
            raise ValueError(f"PointToVoxel: pc must be on {self.device.type}, got {pc.device}")
        n, ids = self._generator.fill(pc, clear_voxels, empty_mean, "PointToVoxel")
        return self.voxels[:n].clone(), self.indices[:n].clone(), self.num_per_voxel[:n].clone(), ids


def gather_features_by_pc_voxel_id(
    seg_res_features: Tensor, pc_voxel_id: Tensor, invalid_value: int | float = 0
) -> Tensor:
    """Features of voxels [V, ...] for the points in them: [N, ...] for ids int [N], invalid_value where the id is -1."""
    if not isinstance(seg_res_features, Tensor) or not isinstance(pc_voxel_id, Tensor):
        raise TypeError("gather_features_by_pc_voxel_id: expected two torch tensors")
    ids = pc_voxel_id.to(seg_res_features.device)
    known = (ids != -1).nonzero()[:, 0]
    out = seg_res_features.new_full((len(ids), *seg_res_features.shape[1:]), invalid_value)
    return out.index_copy(0, known, seg_res_features[ids[known].long()])


class _Point2VoxelCPU:
    """Voxels of points on the CPU, spconv.utils.Point2VoxelCPU: arguments as PointToVoxel, D fixed by the class.

    Points come as numpy array, torch tensor or tensorview tensor; results are tensorview tensors: `.numpy()`.
    """

    ndim = 0

    def __init__(
        self,
        vsize_xyz: Sequence[float],
        coors_range_xyz: Sequence[float],
        num_point_features: int,
        max_num_voxels: int,
        max_num_points_per_voxel: int,
    ) -> None:
        if len(vsize_xyz) != self.ndim:
            raise ValueError(
                f"{type(self).__name__}: expected {self.ndim} voxel edges, got {list(vsize_xyz)}"
            )
        self._generator = _Generator(
            vsize_xyz,
            coors_range_xyz,
            num_point_features,
            max_num_voxels,
            max_num_points_per_voxel,
            torch.device("cpu"),
        )

    @staticmethod
    def calc_meta_data(
        vsize_xyz: Sequence[float], coors_range_xyz: Sequence[float]
    ) -> tuple[list[float], list[int], list[int], list[float]]:
        """Voxel edges, cells, steps of the linear index and bounds of a grid, last axis first."""
        grid = Grid(vsize_xyz, coors_range_xyz)
        return grid.size, grid.shape, grid.strides, grid.low + grid.high

    @property
    def grid_size(self) -> list[int]:
        """Cells per axis, last axis first."""
        return list(self._generator.grid.shape)

    @property
    def voxels(self) -> ArrayTensor:
        return ArrayTensor(self._generator.voxels)

    @property
    def indices(self) -> ArrayTensor:
        return ArrayTensor(self._generator.cells)

    @property
    def num_per_voxel(self) -> ArrayTensor:
        return ArrayTensor(self._generator.counts)

    def point_to_voxel(self, points: Any, clear_voxels: bool = True) -> tuple[ArrayTensor, ...]:
        """Voxels [V, max points, F], cells [V, D] and points per voxel [V]: views that the next call writes again."""
        return self._generate(points, clear_voxels, mean=False)

    def point_to_voxel_empty_mean(self, points: Any, clear_voxels: bool = True) -> tuple[ArrayTensor, ...]:
        """As point_to_voxel; the free places of a voxel hold the mean of its points."""
        return self._generate(points, clear_voxels, mean=True)

    def _generate(self, points: Any, clear: bool, mean: bool) -> tuple[ArrayTensor, ...]:
        name = type(self).__name__
        tensor = to_torch(points, name)
        if tensor.device.type != "cpu":
            raise ValueError(f"{name}: points must be on the CPU, got {tensor.device}")
        made = self._generator
        n, _ = made.fill(tensor, clear, mean, name)
        return tuple(ArrayTensor(array[:n]) for array in (made.voxels, made.cells, made.counts))


class Point2VoxelCPU1d(_Point2VoxelCPU):
    """Voxels of points with 1 coordinate."""

    ndim = 1


class Point2VoxelCPU2d(_Point2VoxelCPU):
    """Voxels of points with 2 coordinates."""

    ndim = 2


class Point2VoxelCPU3d(_Point2VoxelCPU):
    """Voxels of points with 3 coordinates."""

    ndim = 3


class Point2VoxelCPU4d(_Point2VoxelCPU):
    """Voxels of points with 4 coordinates."""

    ndim = 4
