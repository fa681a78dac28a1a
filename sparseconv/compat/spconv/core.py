# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""spconv's tensor: features on rows of indices, with the maps that layers leave for each other in `indice_dict`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy

from ...pairs import KernelMap
from .cells import Cells
from .constants import ConvAlgo, SpconvError


@dataclass(eq=False)
class IndiceData:
    """What a layer with an `indice_key` leaves: its input and output rows, its geometry and its map.

    Attributes:
        out_indices, indices: int32 [n_out, 1 + D] and [n_in, 1 + D], the arrays of the output and of the input tensor.
        spatial_shape, out_spatial_shape: cells per axis before and after the layer.
        is_subm, algo, ksize, stride, dilation, padding: the layer's.
        cells, out_cells: the same rows as the engine knows them, with their kernel maps.
        kernel_map: the layer's.
    """

    out_indices: Tensor
    indices: Tensor
    spatial_shape: list[int]
    out_spatial_shape: list[int]
    is_subm: bool
    algo: ConvAlgo
    ksize: list[int]
    stride: list[int]
    dilation: list[int]
    padding: list[int]
    cells: Cells
    out_cells: Cells
    kernel_map: KernelMap
    voxel_num: Any = None

    @property
    def indice_pairs(self) -> Tensor:
        """int32 [2, K, n_in]: input and output rows of each tap's pairs, filled up with -1. Rows are those of distinct cells."""
        kernel_map = self.kernel_map
        counts = kernel_map.tap_offsets.diff()
        room = max(kernel_map.n_in, int(counts.max()) if len(counts) else 0)
        out = kernel_map.pairs.new_full((2, kernel_map.taps, room), -1)
        tap = torch.arange(kernel_map.taps).repeat_interleave(counts)
        place = torch.arange(len(tap)) - kernel_map.tap_offsets[:-1].repeat_interleave(counts)
        out[:, tap, place] = kernel_map.pairs.t()
        return out

    @property
    def indice_pair_num(self) -> Tensor:
        """int32 [K], pairs of each tap."""
        return self.kernel_map.tap_offsets.diff().to(torch.int32)


class _Traceable(type):
    """Traced by torch.fx, a call with a proxy is recorded and not run, as with the wheel's tensor."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        traced = tuple(value for value in (*args, *kwargs.values()) if isinstance(value, Proxy))
        if traced:
            return traced[0].tracer.create_proxy("call_function", cls, traced, {})
        return super().__call__(*args, **kwargs)


class SparseConvTensor(metaclass=_Traceable):
    """Rows of features on cells of a grid, as spconv has it.

    Args:
        features: [N, C].
        indices: int32 [N, 1 + D], column 0 the batch index. Rows may repeat (see `cells.Cells`) and lie outside the shape:
            submanifold layers compute them (see `cells.Cells.inside`), other layers drop cells of their output that lie outside.
        spatial_shape: cells per axis.
        batch_size: samples.
        grid, voxel_num, benchmark, force_algo and the rest are kept and, but for `benchmark`, without effect.

    Raises:
        SpconvError (a ValueError and an AssertionError): for shapes and types that do not fit.
    """

    def __init__(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: Sequence[int],
        batch_size: int,
        grid: Tensor | None = None,
        voxel_num: Tensor | None = None,
        indice_dict: dict[Any, Any] | None = None,
        benchmark: bool = False,
        permanent_thrust_allocator: bool = False,  # noqa: ARG002
        enable_timer: bool = False,  # noqa: ARG002
        force_algo: ConvAlgo | None = None,
    ) -> None:
        if not isinstance(features, Tensor) or features.ndim != 2:
            got = str(list(features.shape)) if isinstance(features, Tensor) else type(features).__name__
            raise SpconvError(f"SparseConvTensor: features must be [N, C], got {got}")
        if not isinstance(indices, Tensor) or indices.ndim != 2 or indices.dtype != torch.int32:
            got = (
                f"{indices.dtype} {list(indices.shape)}"
                if isinstance(indices, Tensor)
                else type(indices).__name__
            )
            raise SpconvError(f"SparseConvTensor: indices must be int32 [N, 1 + D], got {got}")
        if len(spatial_shape) != indices.shape[1] - 1:
            raise SpconvError(
                f"SparseConvTensor: spatial_shape must have {indices.shape[1] - 1} numbers to match indices "
                f"{list(indices.shape)}, got {list(spatial_shape)}"
            )
        if batch_size < 1:
            raise SpconvError(f"SparseConvTensor: batch_size must be at least 1, got {batch_size}")
        self._features = features
        self.indices = indices
        self.spatial_shape = [int(size) for size in spatial_shape]
        self.batch_size = batch_size
        self.indice_dict = {} if indice_dict is None else indice_dict
        self.grid = torch.empty(0) if grid is None else grid
        self.voxel_num = voxel_num
        self.benchmark = benchmark
        self.benchmark_record: dict[str, Any] = {}
        self.thrust_allocator = None
        self._timer = None
        self.force_algo = force_algo
        self.int8_scale = None
        self._cells: Cells | None = None

    def __repr__(self) -> str:
        return f"SparseConvTensor[shape={self._features.shape}]"

    @property
    def features(self) -> Tensor:
        """[N, C]; `replace_feature` makes a tensor with others."""
        return self._features

    @features.setter
    def features(self, value: Tensor) -> None:  # noqa: ARG002
        raise ValueError(
            "features cannot be set: use x = x.replace_feature(features), which makes a new tensor"
        )

    @property
    def is_quantized(self) -> bool:
        """Always False for the types that the layers take."""
        return self._features.dtype == torch.qint8

    @property
    def spatial_size(self) -> int:
        """Cells of the grid of one sample."""
        return math.prod(self.spatial_shape)

    def q_scale(self) -> float:
        """spconv's scale of int8 features, which the layers do not take: raises SpconvError."""
        raise SpconvError("q_scale: the features are not quantized; sparseconv.formats quantizes weights")

    def dequantize(self) -> SparseConvTensor:
        """Quantized features as float32."""
        return self.replace_feature(self._features.dequantize())

    def cells(self) -> Cells:
        """The rows as the engine knows them; made anew where `indices` or the shape were changed."""
        cells = self._cells
        if cells is None or not cells.are(self.indices, self.spatial_shape, self.batch_size):
            self._cells = cells = Cells.of(self.indices, self.spatial_shape, self.batch_size)
        return cells

    def clear_cache(self) -> None:
        """Forgets the kernel maps of these rows, for every tensor on them."""
        self.cells().sites.clear_cache()

    def shadow_copy(self) -> SparseConvTensor:
        """A new tensor with the same members."""
        copy = SparseConvTensor.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy

    def replace_feature(self, feature: Tensor) -> SparseConvTensor:
        """The same rows with other features [N, any C]."""
        if feature.ndim != 2:
            raise SpconvError(f"replace_feature: features must be [N, C], got {list(feature.shape)}")
        copy = self.shadow_copy()
        copy._features = feature
        return copy

    def moved(
        self,
        features: Tensor,
        indices: Tensor,
        cells: Cells,
        shape: Sequence[int],
        indice_dict: dict[Any, Any],
    ) -> Any:
        """The tensor after a layer: other rows on the same batch."""
        copy = self.replace_feature(features)
        copy.indices = indices
        copy.spatial_shape = list(shape)
        copy.indice_dict = indice_dict
        copy._cells = cells
        return copy

    def select_by_index(self, valid_indices: Tensor) -> SparseConvTensor:
        """The rows that an index or a mask names, without any map."""
        copy = self.replace_feature(self._features[valid_indices])
        copy.indices = self.indices[valid_indices]
        copy.indice_dict = {}
        copy._cells = None
        return copy

    def minus(self) -> SparseConvTensor:
        """Negated features."""
        return self.replace_feature(-self._features)

    @classmethod
    def from_dense(cls, x: Tensor) -> SparseConvTensor:
        """From [B, *spatial, C]: a row for each cell that is not all zero."""
        indices = (x != 0).any(dim=-1).nonzero()
        features = x[tuple(indices.t())]
        return cls(features, indices.to(torch.int32), list(x.shape[1:-1]), x.shape[0])

    def find_indice_pair(self, key: Any) -> IndiceData | None:
        """What the layer with this `indice_key` left; None where none did."""
        return None if key is None else self.indice_dict.get(key)

    def dense(self, channels_first: bool = True) -> Tensor:
        """[B, C, *spatial], or [B, *spatial, C]; cells without a row are zero."""
        shape = (self.batch_size, *self.spatial_shape, self._features.shape[1])
        out = self._features.new_zeros(shape)
        out = out.index_put(tuple(self.indices.long().unbind(1)), self._features)
        return out.movedim(-1, 1).contiguous() if channels_first else out

    def __add__(self, other: SparseConvTensor | Tensor) -> SparseConvTensor:
        if not isinstance(other, SparseConvTensor | Tensor):
            return NotImplemented
        return self.replace_feature(self._features + (other if isinstance(other, Tensor) else other.features))

    __radd__ = __iadd__ = __add__


def scatter_nd(indices: Tensor, updates: Tensor, shape: Sequence[int]) -> Tensor:
    """An array of a shape that is zero but for updates [N, ...] at indices [N, axes]; of repeated ones any stays."""
    return updates.new_zeros(tuple(shape)).index_put(tuple(indices.long().unbind(1)), updates)


def expand_nd(ndim: int, value: Any) -> list[int]:
    """One whole number per axis; SpconvError for another count."""
    values = [value] * ndim if isinstance(value, int) else [int(v) for v in value]
    if len(values) != ndim:
        raise SpconvError(f"expected one number or {ndim}, got {value!r}")
    return values
