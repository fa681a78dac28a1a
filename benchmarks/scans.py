# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What is measured on: occupied cells of real scans, of simulated ones, of a dense grid, and of many sweeps merged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sparseconv

Points = np.ndarray[Any, Any]  # [N, 3] float32, metres

STANDARD = (  # name, voxel size in metres
    ("kitti_odometry_00_000000.bin", 0.1),
    ("kitti_odometry_00_000000.bin", 0.05),
    ("waymo_spconv_benchmark_pc.npz", 0.1),
)
SCAN_ORDER = ", scan order"  # ends the label of a scan whose rows are so
GRID = 32  # cells along each axis of the dense grid: all are occupied


@dataclass(frozen=True)
class Scan:
    """Occupied cells in lexicographic order, all within [0, shape).

    Attributes:
        label: for tables; the file's name without its folder.
        coords: int32 [N, 4], column 0 the batch index 0.
        shape: cells along each axis.
        first_come: int64 [N], the rows in the order in which the scan's points met them.
    """

    label: str
    coords: Tensor
    shape: tuple[int, int, int]
    first_come: Tensor

    def __len__(self) -> int:
        return int(self.coords.shape[0])

    def features(self, channels: int, seed: int = 0) -> Tensor:
        """Normal random numbers, float32 [N, channels]."""
        return torch.randn(len(self), channels, generator=torch.Generator().manual_seed(seed))

    def in_scan_order(self) -> Scan:
        """The same cells with the rows as a scanner sees them."""
        if self.label.endswith(SCAN_ORDER):
            return self
        n = len(self)
        return Scan(self.label + SCAN_ORDER, self.coords[self.first_come], self.shape, torch.arange(n))


def from_points(label: str, points: Points, voxel: float) -> Scan:
    """Voxelizes points, counting cells from the lowest coordinates."""
    low = tuple(float(v) for v in points.min(0))
    x, voxel_of_point = sparseconv.voxelize(torch.from_numpy(points), voxel_size=voxel, origin=low)
    coords = x.coords
    shape = (coords.amax(0) + 1).tolist()
    _, first = np.unique(voxel_of_point.numpy(), return_index=True)
    first_come = torch.from_numpy(np.argsort(first, kind="stable"))
    return Scan(label, coords, (shape[1], shape[2], shape[3]), first_come)


def dense_grid(size: int = GRID) -> Scan:
    """A full cube, where a dense convolution does the same work."""
    cells = torch.cartesian_prod(*[torch.arange(size, dtype=torch.int32)] * 3)
    coords = torch.cat([torch.zeros(len(cells), 1, dtype=torch.int32), cells], 1)
    return Scan(f"dense grid {size}^3", coords, (size, size, size), torch.arange(len(coords)))


@lru_cache
def _simulated_points(seed: int) -> Points:
    from sparseconv.datasets import simulate_scan

    points: Points = simulate_scan(seed).points
    return points


def simulated(voxel: float) -> Scan:
    """One simulated sweep of 64 beams."""
    return from_points(f"simulated {voxel:g} m", _simulated_points(0), voxel)


def merged(voxels: int, voxel: float = 0.1) -> Scan:
    """Simulated sweeps side by side, at least as many as give `voxels` cells, cut to that number in lexicographic order.

    Four sweeps are simulated; further ones are their mirror images and quarter turns, each on a place of its own.
    """
    sweeps = [_simulated_points(seed) for seed in range(4)]
    span = max(float(np.abs(p[:, :2]).max()) for p in sweeps) * 2 + 1
    per_sweep = len(from_points("", sweeps[0], voxel))
    count = max(1, -(-voxels * 5 // (per_sweep * 4)))  # a quarter more than needed on average
    while True:
        width = max(1, round(count**0.5))
        placed = []
        for i in range(count):
            points = sweeps[i % 4].copy()
            turn = i // 4 % 8
            if turn >= 4:
                points[:, 0] *= -1
            for _ in range(turn % 4):
                points = np.column_stack([-points[:, 1], points[:, 0], points[:, 2]])
            points[:, 0] += span * (i // width)
            points[:, 1] += span * (i % width)
            placed.append(points.astype(np.float32))
        scan = from_points(f"{voxels:,} voxels", np.concatenate(placed), voxel)
        if len(scan) >= voxels:
            return Scan(scan.label, scan.coords[:voxels].contiguous(), scan.shape, torch.arange(voxels))
        count += max(1, count // 4)


def data_folder() -> Path | None:
    """The folder of real scans: $SPARSECONV_DATA, or shared/data beside the source tree; None where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SPARSECONV_DATA", beside))
    return folder if folder.is_dir() else None


def open_scan(name: str, voxel: float) -> Iterator[Scan]:
    """The scans that a value of --scan names: PATH[@VOXEL], simulated[@VOXEL], dense-grid[@CELLS] or standard.

    `standard` is the simulated sweep and, where the folder of real scans exists, those of `STANDARD`.

    Raises:
        ValueError, OSError: for a file that cannot be read.
    """
    if name == "standard":
        yield simulated(voxel)
        folder = data_folder()
        for file, size in STANDARD if folder is not None else ():
            if folder is not None and (folder / file).exists():
                yield from open_scan(f"{folder / file}@{size}", size)
        return
    name, at, number = name.rpartition("@") if "@" in name else (name, "", "")
    if name == "dense-grid":
        yield dense_grid(int(number) if at else GRID)
        return
    size = float(number) if at else voxel
    if name == "simulated":
        yield simulated(size)
        return
    from sparseconv.datasets import read_scan

    points = np.ascontiguousarray(read_scan(name).points[:, :3], np.float32)
    yield from_points(f"{Path(name).stem} {size:g} m", points, size)
