# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What convolutions and pooling layers share: finding the kernel map of a tensor, and leaving it under an `indice_key`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ... import kernel_map
from ...geometry import Geometry
from ...pairs import KernelMap
from .cells import Cells
from .constants import ConvAlgo, SpconvError
from .core import IndiceData, SparseConvTensor, expand_nd
from .modules import SparseModule

RECORD = "max_num_voxels_during_training"


def geometry_of(
    ndim: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    *,
    subm: bool,
    transposed: bool,
) -> Geometry:
    """The engine's geometry: spconv's submanifold layers ignore stride and padding, its transposed shape the dilation."""
    if subm:
        if any(k % 2 == 0 for k in kernel):
            raise SpconvError(f"a submanifold layer has odd kernel sizes, got {list(kernel)}")
        return Geometry.make(ndim, kernel, dilation=dilation, submanifold=True)
    geometry = Geometry.make(ndim, kernel, stride, padding, dilation, transposed=transposed)
    if not transposed:
        return geometry
    # The shape is (n - 1) * stride - 2 * padding + kernel + output_padding, with a dilation too.
    extra = tuple(o + (k - 1) * (1 - d) for o, k, d in zip(output_padding, kernel, dilation, strict=True))
    return Geometry(
        geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation, extra, transposed=True
    )


class MappedModule(SparseModule):
    """A layer with a kernel map."""

    has_map = True  # False for a kernel of one cell, which is a product of the rows

    def __init__(
        self,
        ndim: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        output_padding: Any,
        *,
        subm: bool,
        transposed: bool = False,
        inverse: bool = False,
        indice_key: str | None,
        algo: Any,
        record_voxel_count: bool,
        name: str | None,
    ) -> None:
        super().__init__(name=name)
        self.ndim = ndim
        self.kernel_size = expand_nd(ndim, kernel_size)
        self.stride = expand_nd(ndim, self.kernel_size if stride is None else stride)
        self.padding = expand_nd(ndim, padding)
        self.dilation = expand_nd(ndim, dilation)
        self.output_padding = expand_nd(ndim, output_padding)
        self.subm = subm
        self.transposed = transposed
        self.inverse = inverse
        self.indice_key = indice_key
        self.algo = ConvAlgo.Native if algo is None else algo
        self.record_voxel_count = record_voxel_count
        if record_voxel_count and not self.subm and not self.inverse:
            self.register_buffer(RECORD, torch.zeros(1, dtype=torch.int32))

    def get_max_num_voxels(self) -> Tensor | None:
        """int32 [1], the most output rows so far; None where they are not recorded."""
        return getattr(self, RECORD, None)

    def _geometry(self) -> Geometry:
        return geometry_of(
            self.ndim,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.output_padding,
            subm=self.subm,
            transposed=self.transposed,
        )

    def _check(self, x: Any) -> None:
        if not isinstance(x, SparseConvTensor):
            raise SpconvError(f"{type(self).__name__}: expected a SparseConvTensor, got {type(x).__name__}")
        if len(x.spatial_shape) != self.ndim:
            raise SpconvError(
                f"{type(self).__name__}: expected {self.ndim} axes, got shape {x.spatial_shape}"
            )
        if x.features.shape[0] != x.indices.shape[0]:
            raise SpconvError(
                f"{type(self).__name__}: features and indices must have the same rows, got {list(x.features.shape)} and "
                f"{list(x.indices.shape)}"
            )

    def _find(self, x: SparseConvTensor) -> IndiceData:
        """The map of this layer on `x`, from its key's earlier layer or the cache of its rows, or built; and its rows."""
        left = x.find_indice_pair(self.indice_key)
        if self.inverse:
            return self._partner(x, left)
        cells = x.cells()
        if left is not None:
            self._check_reuse(x, left)
            cells = left.cells
        geometry = self._geometry_kept()
        found, sites = kernel_map.lookup(cells.sites, geometry)
        if self.subm:
            found, out_cells = cells.inside(found), cells
        elif left is None:
            out_cells = Cells(sites.coords, sites)
        else:
            out_cells = left.out_cells
        shape = x.spatial_shape if self.subm else list(sites.spatial_shape or ())
        return self._data(x, cells, out_cells, shape, found)

    def _data(
        self, x: SparseConvTensor, cells: Cells, out_cells: Cells, shape: list[int], found: KernelMap
    ) -> IndiceData:
        out_indices = x.indices if self.subm else out_cells.indices
        return IndiceData(
            out_indices,
            x.indices,
            x.spatial_shape,
            shape,
            self.subm,
            self.algo,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.padding,
            cells,
            out_cells,
            found,
        )

    def _geometry_kept(self) -> Geometry:
        """`_geometry()`, made once for each set of arguments."""
        key = (
            self.subm,
            self.transposed,
            *tuple(
                tuple(v)
                for v in (self.kernel_size, self.stride, self.padding, self.dilation, self.output_padding)
            ),
        )
        kept = self.__dict__.get("_kept_geometry")
        if kept is None or kept[0] != key:
            self.__dict__["_kept_geometry"] = kept = (key, self._geometry())
        return kept[1]

    def _check_reuse(self, x: SparseConvTensor, left: IndiceData) -> None:
        head = f"{type(self).__name__}: indice_key {self.indice_key!r} was used before by a layer"
        if not self.subm or not left.is_subm:
            raise SpconvError(
                f"{head} that is not submanifold, or this one is not: only submanifold layers share a key"
            )
        for what, own, other in (
            ("kernel size", self.kernel_size, left.ksize),
            ("dilation", self.dilation, left.dilation),
        ):
            if own != other:
                raise SpconvError(f"{head} with {what} {other}, this one has {own}")
        self._check_rows(head, x, left.indices, left.spatial_shape)

    def _partner(self, x: SparseConvTensor, left: IndiceData | None) -> IndiceData:
        """The map of the layer with this key the other way round."""
        name = type(self).__name__
        if left is None:
            raise SpconvError(
                f"{name}: no layer with indice_key {self.indice_key!r} has run on this tensor's way"
            )
        head = f"{name}: indice_key {self.indice_key!r} is that of a layer"
        if left.is_subm:
            raise SpconvError(
                f"{head} that is submanifold: an inverse layer goes with a strided convolution or pooling layer"
            )
        if self.kernel_size != left.ksize:
            raise SpconvError(f"{head} with kernel size {left.ksize}, this one has {self.kernel_size}")
        self._check_rows(head, x, left.out_indices, left.out_spatial_shape)
        found = left.kernel_map.reverse()
        return IndiceData(
            left.indices,
            left.out_indices,
            left.out_spatial_shape,
            left.spatial_shape,
            False,
            self.algo,
            left.ksize,
            left.stride,
            left.dilation,
            left.padding,
            left.out_cells,
            left.cells,
            found,
        )

    def _check_rows(self, head: str, x: SparseConvTensor, indices: Tensor, shape: list[int]) -> None:
        if x.spatial_shape != shape:
            raise SpconvError(f"{head} on spatial shape {shape}, this tensor has {x.spatial_shape}")
        if x.indices is not indices and not (
            x.indices.shape == indices.shape and torch.equal(x.indices, indices)
        ):
            raise SpconvError(
                f"{head} on {list(indices.shape)} indices, this tensor has {list(x.indices.shape)} others: a key means equal rows"
            )

    def _finish(self, x: SparseConvTensor, data: IndiceData, features: Tensor) -> SparseConvTensor:
        """The tensor after this layer, with the map under its key."""
        indice_dict = x.indice_dict
        if self.indice_key is not None and not self.inverse and self.indice_key not in indice_dict:
            indice_dict = {**indice_dict, self.indice_key: data}
        record = None if self.inverse or self.subm else self.get_max_num_voxels()
        if record is not None:
            record.clamp_(min=len(data.out_indices))
        out: SparseConvTensor = x.moved(
            features, data.out_indices, data.out_cells, data.out_spatial_shape, indice_dict
        )
        return out

    def _recorded(self, x: SparseConvTensor, kind: str, params: dict[str, Any], run: Any) -> SparseConvTensor:
        """`run()`, whose time goes into `x.benchmark_record` where the tensor asks for it."""
        if not x.benchmark:
            return run()  # type: ignore[no-any-return]
        if self.name is None:
            raise ValueError(f"{type(self).__name__}: a tensor with benchmark=True needs layers with names")
        start = time.perf_counter()
        n_out = len(self._find(x).out_indices) if self.has_map else len(x.indices)
        found = time.perf_counter()
        out: SparseConvTensor = run()
        done = time.perf_counter()
        record = x.benchmark_record.setdefault(
            self.name,
            {
                "type": kind,
                "indice_gen_time": [],
                "time": [],
                "num_points": [],
                "num_out_points": [],
                "params": params,
            },
        )
        record["indice_gen_time"].append(found - start)
        record["time"].append(done - found)
        record["num_points"].append(x.features.shape[0])
        record["num_out_points"].append(n_out)
        return out
