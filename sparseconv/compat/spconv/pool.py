# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: A002

"""spconv's pooling: max(0, maximum), the mean of the present cells, and both over whole samples."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ... import functional
from .core import IndiceData, SparseConvTensor
from .layer import MappedModule
from .modules import SparseModule


class _LocalPool(MappedModule):
    def __init__(
        self,
        ndim: int,
        kernel_size: Any = 3,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        indice_key: str | None = None,
        subm: bool = False,
        algo: Any = None,
        record_voxel_count: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            ndim,
            kernel_size,
            stride,
            padding,
            dilation,
            0,
            subm=subm,
            indice_key=indice_key,
            algo=algo,
            record_voxel_count=record_voxel_count,
            name=name,
        )

    def _pool(self, x: SparseConvTensor, data: IndiceData) -> Tensor:
        raise NotImplementedError

    def forward(self, input: SparseConvTensor) -> SparseConvTensor:
        """Pools the rows under the kernel."""
        self._check(input)
        params = {
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
        }

        def run() -> SparseConvTensor:
            data = self._find(input)
            features = self._pool(input, data)
            return self._finish(input, data, data.out_cells.spread(features) if self.subm else features)

        return self._recorded(input, type(self).__name__, params, run)

    def extra_repr(self) -> str:
        """The geometry."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}"


class SparseMaxPool(_LocalPool):
    """max(0, the maximum of the present cells under the kernel), as spconv has it; `sparseconv.nn.MaxPool3d` has the maximum."""

    def _pool(self, x: SparseConvTensor, data: IndiceData) -> Tensor:
        rows = data.cells.maxima(x.features)
        return functional.max_pool(rows, data.kernel_map, name=type(self).__name__).relu()


class SparseAvgPool(_LocalPool):
    """The mean of the present rows under the kernel."""

    def _pool(self, x: SparseConvTensor, data: IndiceData) -> Tensor:
        name, cells, kernel_map = type(self).__name__, data.cells, data.kernel_map
        if cells.first is None:
            return functional.avg_pool(x.features, kernel_map, volume=1, name=name)
        features = functional.accumulation(x.features)
        counts = functional.sum_pool(cells.sums(features.new_ones(len(features), 1)), kernel_map, name=name)
        return (functional.sum_pool(cells.sums(features), kernel_map, name=name) / counts.clamp(min=1)).to(
            x.features.dtype
        )


class SparseGlobalMaxOrAvgPool(SparseModule):
    """Over all rows of a sample: [batch_size, C]. A sample without rows gives 0."""

    def __init__(self, is_mean: bool, name: str | None = None) -> None:
        super().__init__(name=name)
        self.is_mean = is_mean

    def forward(self, input: SparseConvTensor) -> Tensor:
        """Pools each sample."""
        pool = functional.segment_mean if self.is_mean else functional.segment_max
        return pool(input.features, input.indices[:, 0], input.batch_size)


class SparseGlobalAvgPool(SparseGlobalMaxOrAvgPool):
    """The mean of each sample."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(is_mean=True, name=name)


class SparseGlobalMaxPool(SparseGlobalMaxOrAvgPool):
    """The maximum of each sample."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(is_mean=False, name=name)


def _classes(base: type, stem: str, last: int) -> list[Any]:
    def init(
        self: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        indice_key: str | None = None,
        algo: Any = None,
        record_voxel_count: bool = False,
        name: str | None = None,
    ) -> None:
        base.__init__(  # type: ignore[misc]
            self,
            self._ndim,
            kernel_size,
            stride,
            padding,
            dilation,
            indice_key,
            algo=algo,
            record_voxel_count=record_voxel_count,
            name=name,
        )

    return [
        type(
            f"{stem}{ndim}d",
            (base,),
            {"_ndim": ndim, "__init__": init, "__module__": __name__, "__doc__": base.__doc__},
        )
        for ndim in range(1, last + 1)
    ]


SparseMaxPool1d, SparseMaxPool2d, SparseMaxPool3d, SparseMaxPool4d = _classes(
    SparseMaxPool, "SparseMaxPool", 4
)
SparseAvgPool1d, SparseAvgPool2d, SparseAvgPool3d = _classes(SparseAvgPool, "SparseAvgPool", 3)
ALL_POOL_LAYERS = {
    value for value in list(vars().values()) if isinstance(value, type) and issubclass(value, _LocalPool)
} - {_LocalPool}
