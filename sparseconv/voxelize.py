# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Points to voxels and back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _native
from .functional import accumulation
from .sites import Sites, check_batch_size, check_spatial_shape
from .tensor import SparseTensor

REDUCTIONS = ("mean", "max", "first", "sum")
MODES = ("nearest", "trilinear")
Floats = float | Sequence[float]


def _per_axis(value: Floats, ndim: int, name: str) -> list[float]:
    values = [float(v) for v in value] if isinstance(value, Sequence | Tensor) else [float(value)] * ndim
    if len(values) != ndim or not all(map(math.isfinite, values)):
        raise ValueError(f"{name} must be a finite number or {ndim} of them, got {value!r}")
    return values


def _voxel_size(value: Floats, ndim: int, name: str) -> list[float]:
    size = _per_axis(value, ndim, "voxel_size")
    if any(edge <= 0 for edge in size):
        raise ValueError(f"{name}: voxel_size must be positive, got {value!r}")
    return size


def _check_points(points: Tensor, name: str) -> None:
    if not isinstance(points, Tensor):
        raise TypeError(f"{name}: points must be a torch.Tensor [N, D], got {type(points).__name__}")
    _native.require_device(points.device)
    if points.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: points must be float32 or float64, got {points.dtype}")
    if points.ndim != 2 or not 1 <= points.shape[1] <= 4:
        raise ValueError(f"{name}: points must be [N, D] with D from 1 to 4, got {list(points.shape)}")


def _check_batch(
    batch: Tensor | None, points: Tensor, batch_size: int | None, name: str
) -> tuple[Tensor | None, int]:
    """The batch index as int32 and the batch size."""
    check_batch_size(batch_size, 1 if batch is None else 0)
    if batch is None:
        return None, 1 if batch_size is None else batch_size
    if not isinstance(batch, Tensor):
        raise TypeError(
            f"{name}: batch must be a torch.Tensor [N] of int32 or int64, got {type(batch).__name__}"
        )
    if batch.device != points.device:
        raise ValueError(f"{name}: batch must be on {points.device} like the points, got {batch.device}")
    if batch.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: batch must be int32 or int64 [N], got {batch.dtype}")
    if batch.shape != points.shape[:1]:
        raise ValueError(f"{name}: batch must be [{points.shape[0]}], got {list(batch.shape)}")
    low, high = (int(batch.min()), int(batch.max())) if len(batch) else (0, 0)
    size = high + 1 if batch_size is None else batch_size
    if size >= 2**31:
        raise ValueError(f"{name}: batch indices must be below 2^31, got {high}")
    if len(batch) and (low < 0 or high >= size):
        raise ValueError(f"{name}: batch must lie in [0, {size}), got {low} .. {high}")
    return batch.to(torch.int32).contiguous(), size


def voxelize(
    points: Tensor,
    features: Tensor | None = None,
    *,
    voxel_size: Floats,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    spatial_shape: Sequence[int] | None = None,
    origin: Floats = 0,
    reduce: str = "mean",
) -> tuple[SparseTensor, Tensor]:
    """Points into voxels: cell = floor((double(p) - origin) / double(voxel_size)), rows in lexicographic order.

    Args:
        points: [N, D] float32 or float64, D from 1 to 4.
        features: [N, C] of each point; None = the points themselves. Gradients flow to them.
        voxel_size: edge of a cell in the points' unit, a number or one per axis.
        batch: int [N], the sample of each point; None = all in sample 0.
        batch_size: samples, trailing empty ones included.
        spatial_shape: cells must lie in [0, spatial_shape).
        origin: the corner of cell 0, a number or one per axis.
        reduce: "mean", "max", "first" (lowest point row) or "sum" of the points of a voxel.

    Returns:
        The tensor, and the voxel row of each point, int64 [N].

    Raises:
        ValueError, TypeError: points that are not finite, wrong shapes or types, cells outside spatial_shape.
    """
    _check_points(points, "voxelize")
    ndim = points.shape[1]
    features = points if features is None else features
    if not isinstance(features, Tensor) or not features.is_floating_point():
        raise TypeError(
            f"voxelize: features must be a floating point tensor [N, C], got {getattr(features, 'dtype', features)}"
        )
    if features.ndim != 2 or features.shape[0] != points.shape[0]:
        raise ValueError(f"voxelize: features must be [{points.shape[0]}, C], got {list(features.shape)}")
    if features.device != points.device:
        raise ValueError(
            f"voxelize: features must be on {points.device} like the points, got {features.device}"
        )
    if reduce not in REDUCTIONS:
        raise ValueError(f"voxelize: reduce must be one of {REDUCTIONS}, got {reduce!r}")
    size = _voxel_size(voxel_size, ndim, "voxelize")
    shape = None if spatial_shape is None else check_spatial_shape(spatial_shape, ndim)
    batch, samples = _check_batch(batch, points, batch_size, "voxelize")
    coords, voxel_of_point, order, offsets = torch.ops.sparseconv.voxel_runs(
        points.detach().contiguous(), batch, _per_axis(origin, ndim, "origin"), size
    )
    if shape is not None:
        _check_inside(coords, shape)
    sites = Sites(coords, (1,) * ndim, shape, samples)
    if reduce == "first":
        return SparseTensor.on(sites, features[order[offsets[:-1]]]), voxel_of_point
    if reduce == "max":
        return SparseTensor.on(
            sites, torch.ops.sparseconv.gather_max(features, offsets, order)[0]
        ), voxel_of_point
    total = torch.ops.sparseconv.gather_sum(accumulation(features), offsets, order, None)
    if reduce == "mean":
        total = total / offsets.diff().to(total.dtype)[:, None]
    return SparseTensor.on(sites, total.to(features.dtype)), voxel_of_point


def _check_inside(coords: Tensor, shape: tuple[int, ...]) -> None:
    if len(coords) == 0:
        return
    low, high = (bound.tolist()[1:] for bound in torch.aminmax(coords, dim=0))
    for axis, cells in enumerate(shape):
        if low[axis] < 0 or high[axis] >= cells:
            raise ValueError(
                f"voxelize: cells must lie in [0, spatial_shape), axis {axis} has shape {cells}, "
                f"got {low[axis]} .. {high[axis]}; "
                "crop the points first or leave spatial_shape out"
            )


def devoxelize(
    x: SparseTensor,
    points: Tensor,
    *,
    voxel_size: Floats | None = None,
    batch: Tensor | None = None,
    origin: Floats = 0,
    mode: str = "nearest",
) -> Tensor:
    """Features of voxels at points.

    Args:
        x: the voxels; a cell measures voxel_size * stride.
        points: int64 [N], the voxel row of each point as `voxelize` returns it (-1 = none); or float [N, D] positions.
        voxel_size: of the input grid; needed with positions.
        batch: int [N], the sample of each position; None = all in sample 0.
        origin: the corner of cell 0.
        mode: "nearest": the voxel the point lies in; "trilinear": the 2^D voxels whose centres surround it, weighted linearly,
            the weights of the present ones scaled to sum 1. A point with no voxel gets 0.

    Returns:
        [N, C]; gradients flow to x.features.
    """
    if not isinstance(x, SparseTensor):
        raise TypeError(f"devoxelize: x must be a SparseTensor, got {type(x).__name__}")
    if isinstance(points, Tensor) and points.dtype in (torch.int32, torch.int64):
        return _rows_to_points(x, points.to(torch.int64))
    _check_points(points, "devoxelize")
    if points.shape[1] != x.ndim:
        raise ValueError(
            f"devoxelize: points must be [N, {x.ndim}] like the voxels, got {list(points.shape)}"
        )
    if mode not in MODES:
        raise ValueError(f"devoxelize: mode must be one of {MODES}, got {mode!r}")
    if voxel_size is None:
        raise ValueError("devoxelize: positions need voxel_size=")
    if not bool(torch.isfinite(points).all()):
        row = int((~torch.isfinite(points)).any(1).nonzero()[0, 0])
        raise ValueError(f"devoxelize: points must be finite, got {points[row].tolist()} in row {row}")
    batch, _ = _check_batch(batch, points, max(x.batch_size, 1), "devoxelize")

    def numbers(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=points.device)

    start, size = numbers(_per_axis(origin, x.ndim, "origin")), _voxel_size(voxel_size, x.ndim, "devoxelize")
    place = (points.detach().to(torch.float64) - start) / numbers(size)  # in cells of the input grid
    steps = numbers([float(step) for step in x.stride])
    samples = torch.zeros(len(points), dtype=torch.int32, device=points.device) if batch is None else batch
    if mode == "nearest":
        # Whole steps are taken from voxelize's own cells: one division by both would round points into other cells.
        whole = torch.tensor([step == int(step) for step in x.stride], device=points.device)
        cell = (torch.where(whole, place.floor(), place) / steps).floor()
        return _rows_to_points(x, _find_cells(x, samples, cell))
    place = place / steps
    corner = (place - 0.5).floor()
    share = place - 0.5 - corner
    rows, weights = [], []
    for offset in itertools.product((0, 1), repeat=x.ndim):
        step = numbers(offset)
        rows.append(_find_cells(x, samples, corner + step))
        weights.append(torch.where(step > 0, share, 1 - share).prod(1))
    corners, weight = torch.stack(rows, 1), torch.stack(weights, 1)
    weight = torch.where(corners >= 0, weight, torch.zeros_like(weight))
    total = weight.sum(1, keepdim=True)
    weight = weight / torch.where(total > 0, total, torch.ones_like(total))
    return _weighted_rows(x, corners, weight)


def _find_cells(x: SparseTensor, samples: Tensor, cells: Tensor) -> Tensor:
    """The row of x at each cell, float64 [N, D], or -1. A cell outside x's bounds, however far, widens no key."""
    if len(x) == 0:
        return torch.full((len(cells),), -1, dtype=torch.int64, device=cells.device)
    low, high = torch.aminmax(x.coords[:, 1:], dim=0)
    inside = ((cells >= low) & (cells <= high)).all(1)
    queries = torch.where(inside[:, None], cells, low.to(cells.dtype)).to(torch.int32)
    rows = torch.ops.sparseconv.find_rows(x.coords, torch.cat([samples[:, None], queries], 1))
    return torch.where(inside, rows, torch.full_like(rows, -1))


def _rows_to_points(x: SparseTensor, rows: Tensor) -> Tensor:
    if rows.device != x.device:
        raise ValueError(f"devoxelize: rows must be on {x.device} like the voxels, got {rows.device}")
    if rows.ndim != 1:
        raise ValueError(f"devoxelize: rows must be [N], got {list(rows.shape)}")
    if len(rows) and (int(rows.min()) < -1 or int(rows.max()) >= len(x)):
        raise ValueError(
            f"devoxelize: rows must lie in [-1, {len(x)}), got {int(rows.min())} .. {int(rows.max())}"
        )
    return _weighted_rows(x, rows[:, None], (rows >= 0).to(torch.float64)[:, None])


def _weighted_rows(x: SparseTensor, rows: Tensor, weights: Tensor) -> Tensor:
    """sum over m of weights[n, m] * features[rows[n, m]]; rows of -1 carry weight 0 and are left out."""
    present = rows >= 0
    offsets = torch.zeros(len(rows) + 1, dtype=torch.int64, device=rows.device)
    torch.cumsum(present.sum(1), 0, out=offsets[1:])
    accumulator = torch.float64 if x.features.dtype == torch.float64 else torch.float32
    result: Tensor = torch.ops.sparseconv.gather_sum(
        x.features, offsets, rows[present], weights[present].to(accumulator)
    )
    return result
