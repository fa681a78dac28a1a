# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""SparseTensor: rows of features on a set of sites."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from . import _native, ops  # noqa: F401  ops registers the operators
from .geometry import Rational
from .sites import Sites, check_cells, mark_rows_dynamic


class SparseTensor:
    """Features on occupied cells.

    Args:
        features: [N, C], floating point.
        coords: int32 [N, 1 + D], unique rows; column 0 is the batch index, then D = 1 .. 4 axes.
        stride: what one cell measures in cells of the input grid: an int or Fraction, or one per axis.
        spatial_shape: all coordinates lie in [0, spatial_shape); None = unbounded, negative coordinates are legal.
        batch_size: samples; None = the largest batch index + 1, one for an empty scan.

    Raises:
        ValueError, TypeError: wrong shapes, types or devices, coordinates out of range, duplicate rows (the first two are named).

    Tensors do not change: operations return new ones, and those on the same sites share the sites' kernel maps.
    """

    __slots__ = ("__weakref__", "features", "sites")
    features: Tensor
    sites: Sites

    def __init__(
        self,
        features: Tensor,
        coords: Tensor,
        *,
        stride: Rational | Sequence[Rational] = 1,
        spatial_shape: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> None:
        _check_features(features)
        sites = Sites.checked(coords, stride, spatial_shape, batch_size)
        if features.shape[0] != len(sites):
            raise ValueError(
                f"features and coords must have the same rows, got {list(features.shape)} and {list(coords.shape)}"
            )
        if features.device != sites.device:
            raise ValueError(
                f"features and coords must be on one device, got {features.device} and {sites.device}"
            )
        mark_rows_dynamic(features)
        self.features = features
        self.sites = sites

    @classmethod
    def on(cls, sites: Sites, features: Tensor) -> SparseTensor:
        """Features on sites that are known to be right; checks nothing."""
        tensor = cls.__new__(cls)
        mark_rows_dynamic(features)
        tensor.features = features
        tensor.sites = sites
        return tensor

    @property
    def coords(self) -> Tensor:
        """int32 [N, 1 + D]."""
        return self.sites.coords

    @property
    def stride(self) -> tuple[Rational, ...]:
        """One rational per axis."""
        return self.sites.stride

    @property
    def spatial_shape(self) -> tuple[int, ...] | None:
        """Cells per axis, None = unbounded."""
        return self.sites.spatial_shape

    @property
    def batch_size(self) -> int:
        """Samples, trailing empty ones included."""
        return self.sites.batch_size

    @property
    def ndim(self) -> int:
        """Number of axes D."""
        return self.sites.ndim

    @property
    def device(self) -> torch.device:
        """Where features and coordinates lie."""
        return self.features.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the features."""
        return self.features.dtype

    @property
    def shape(self) -> torch.Size:
        """Of the features, [N, C]."""
        return self.features.shape

    def __len__(self) -> int:
        return self.features.shape[0]

    def replace(self, features: Tensor) -> SparseTensor:
        """Other features on the same sites; [N, any C]."""
        _check_features(features)
        if features.shape[0] != self.features.shape[0]:
            raise ValueError(f"features must be [{self.features.shape[0]}, C], got {list(features.shape)}")
        if features.device != self.sites.device:
            raise ValueError(f"features must be on {self.sites.device} like the sites, got {features.device}")
        return SparseTensor.on(self.sites, features)

    def clear_cache(self) -> None:
        """Forgets the kernel maps of these sites, for every tensor on them."""
        self.sites.clear_cache()

    # --- moving -------------------------------------------------------------------------------------------------------------

    def to(self, *args: Any, **kwargs: Any) -> SparseTensor:
        """Like `torch.Tensor.to`; a type applies to the features, a device to both. Kernel maps stay behind."""
        features = self.features.to(*args, **kwargs)
        _check_features(features)
        if features.device == self.coords.device:
            return SparseTensor.on(self.sites, features)
        return SparseTensor.on(self.sites.with_coords(self.coords.to(features.device)), features)

    def cpu(self) -> SparseTensor:
        """On the CPU."""
        return self.to("cpu")

    def cuda(self, device: int | None = None) -> SparseTensor:
        """On a GPU."""
        return self.to(torch.device("cuda", device) if device is not None else "cuda")

    def detach(self) -> SparseTensor:
        """Without the features' history."""
        return SparseTensor.on(self.sites, self.features.detach())

    def pin_memory(self) -> SparseTensor:
        """In page-locked memory, without kernel maps; a DataLoader calls it."""
        return SparseTensor.on(self.sites.with_coords(self.coords.pin_memory()), self.features.pin_memory())

    # --- rows ---------------------------------------------------------------------------------------------------------------

    def __getitem__(self, mask: Tensor) -> SparseTensor:
        """The rows where `mask`, bool [N], holds; gradients flow to them."""
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(
                f"rows are chosen by a bool tensor [N], got {getattr(mask, 'dtype', type(mask).__name__)}"
            )
        if mask.shape != self.features.shape[:1]:
            raise ValueError(f"the row mask must be [{len(self)}], got {list(mask.shape)}")
        return SparseTensor.on(self.sites.with_coords(self.coords[mask]), self.features[mask])

    def sample(self, index: int) -> SparseTensor:
        """Sample `index` of the batch as a batch of one."""
        index = operator.index(index)
        if not 0 <= index < self.batch_size:
            raise ValueError(f"sample must be in [0, {self.batch_size}), got {index}")
        mask = self.coords[:, 0] == index
        coords = self.coords[mask]
        coords[:, 0] = 0
        sites = Sites(coords, self.stride, self.spatial_shape, 1)
        return SparseTensor.on(sites, self.features[mask])

    def samples(self) -> list[SparseTensor]:
        """Every sample of the batch."""
        return [self.sample(index) for index in range(self.batch_size)]

    # --- arithmetic ---------------------------------------------------------------------------------------------------------

    def __add__(self, other: SparseTensor) -> SparseTensor:
        """Sum cell by cell: on equal sites in this tensor's row order, else on their union in lexicographic order."""
        if not isinstance(other, SparseTensor):
            return NotImplemented
        from .joining import add  # which is written over this class

        return add(self, other)

    def __iadd__(self, other: SparseTensor) -> SparseTensor:
        """`self + other`, into this tensor's own features where the sum has their rows and their type.

        As with `torch.Tensor`, whoever shares the features sees the sum.
        """
        if not isinstance(other, SparseTensor):
            return NotImplemented
        from .joining import add

        return add(self, other, into_first=True)

    # --- dense --------------------------------------------------------------------------------------------------------------

    def dense(self, shape: Sequence[int] | None = None, origin: Sequence[int] | None = None) -> Tensor:
        """The features on the full grid, zeros elsewhere: [batch_size, C, *shape].

        Args:
            shape: cells per axis; needed where spatial_shape is None.
            origin: the cell that becomes index 0; needed where spatial_shape is None.
        """
        size = self.spatial_shape if shape is None else check_cells(shape, self.ndim, "shape", 1)
        start = (0,) * self.ndim if origin is None else check_cells(origin, self.ndim, "origin", -(2**31))
        if size is None or (self.spatial_shape is None and origin is None):
            raise ValueError("dense() of a tensor without spatial_shape needs shape= and origin=")
        index = self.coords.to(torch.int64) - torch.tensor((0, *start), device=self.coords.device)
        inside = ((index[:, 1:] >= 0) & (index[:, 1:] < torch.tensor(size, device=index.device))).all(1)
        if not bool(inside.all()):
            row = int((~inside).nonzero()[0, 0])
            raise ValueError(
                f"row {row} at {self.coords[row].tolist()} lies outside origin {start} + shape {size}"
            )
        grid = self.features.new_zeros(self.batch_size, *size, self.features.shape[1])
        return grid.index_put(tuple(index.unbind(1)), self.features).movedim(-1, 1)

    def __repr__(self) -> str:
        bounded = "" if self.spatial_shape is None else f", spatial_shape={self.spatial_shape}"
        return (
            f"SparseTensor(features={list(self.features.shape)} {self.dtype}, stride={self.stride}{bounded}, "
            f"batch_size={self.batch_size}, device={self.device})"
        )

    def __getstate__(self) -> tuple[Tensor, Sites]:
        return self.features, self.sites

    def __setstate__(self, state: tuple[Tensor, Sites]) -> None:
        self.features, self.sites = state
        mark_rows_dynamic(self.features)


def _check_features(features: Any) -> None:
    if not isinstance(features, Tensor):
        raise TypeError(f"features must be a torch.Tensor [N, C], got {type(features).__name__}")
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got {features.dtype}")
    if features.layout != torch.strided:
        raise TypeError(f"features must be a dense tensor [N, C], got {features.layout}")
    if features.ndim != 2:
        raise ValueError(f"features must be [N, C], got {list(features.shape)}")


def from_dense(dense: Tensor, mask: Tensor | None = None) -> SparseTensor:
    """The sparse form of a dense grid.

    Args:
        dense: [B, C, *shape], floating point; gradients flow.
        mask: bool [B, *shape], the cells to keep; None = those with a channel that is not zero.

    Returns:
        A tensor with spatial_shape = shape, rows in lexicographic order.
    """
    if not isinstance(dense, Tensor):
        raise TypeError(
            f"from_dense: dense must be a torch.Tensor [B, C, *shape], got {type(dense).__name__}"
        )
    if not dense.is_floating_point():
        raise TypeError(f"from_dense: dense must be floating point, got {dense.dtype}")
    _native.require_device(dense.device)
    if not 3 <= dense.ndim <= 6:
        raise ValueError(
            f"from_dense: dense must be [B, C, *shape] with 1 to 4 axes, got {list(dense.shape)}"
        )
    rows = dense.movedim(1, -1)
    keep = (rows != 0).any(-1) if mask is None else mask
    if not isinstance(keep, Tensor):
        raise TypeError(f"from_dense: mask must be a bool tensor, got {type(keep).__name__}")
    if keep.dtype != torch.bool or keep.shape != rows.shape[:-1]:
        raise ValueError(
            f"from_dense: mask must be bool {list(rows.shape[:-1])}, got {keep.dtype} {list(keep.shape)}"
        )
    coords = keep.nonzero().to(torch.int32).contiguous()  # nonzero writes column by column
    sites = Sites(coords, (1,) * (dense.ndim - 2), tuple(dense.shape[2:]), dense.shape[0])
    return SparseTensor.on(sites, rows[keep])


def _flatten(x: SparseTensor) -> tuple[list[Any], Any]:
    return [x.features, x.coords], (x.stride, x.spatial_shape, x.batch_size)


def _unflatten(values: Any, context: Any) -> SparseTensor:
    features, coords = values
    return SparseTensor.on(Sites(coords, *context), features)


_pytree.register_pytree_node(
    SparseTensor, _flatten, _unflatten, serialized_type_name="sparseconv.SparseTensor"
)
