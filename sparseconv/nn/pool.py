# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Pooling over the sites a kernel reaches, over whole samples, and back (unpooling)."""

from typing import ClassVar

import torch
from torch import Tensor

from .. import functional, kernel_map
from ..geometry import Geometry, Ints
from ..pairs import KernelMap
from ..sites import Sites
from ..tensor import SparseTensor
from ._layer import SparseLayer, check_input, check_ndim


class Pool(SparseLayer):
    """Base of local pooling; use the classes below, which fix the number of axes and the kind."""

    ndim: ClassVar[int]
    transposed: ClassVar[bool] = False

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        *,
        dilation: Ints = 1,
        anchor: str = "torch",
    ) -> None:
        super().__init__()
        self.geometry = Geometry.make(
            self.ndim,
            kernel_size,
            kernel_size if stride is None else stride,
            padding,
            dilation,
            anchor=anchor,
            transposed=self.transposed,
        )

    def _lookup(self, x: SparseTensor, target: SparseTensor | None) -> tuple[KernelMap, Sites]:
        check_input(self, x)
        check_ndim(self, x, self.ndim)
        if target is not None:
            check_input(self, target, "target")
            check_ndim(self, target, self.ndim, "target")
        return kernel_map.lookup(x.sites, self.geometry, None, None if target is None else target.sites)

    def extra_repr(self) -> str:
        """Say the geometry."""
        g = self.geometry
        text = f"kernel_size={g.kernel_size}, stride={g.stride}, padding={g.padding}, dilation={g.dilation}"
        return text if g.anchor == "torch" else f"{text}, anchor={g.anchor!r}"


class _MaxPool(Pool):
    def forward(self, x: SparseTensor, target: SparseTensor | None = None) -> SparseTensor:
        """Pool `x`, onto the sites of `target` if given (a site without a pair gets 0)."""
        pairs, sites = self._lookup(x, target)
        return SparseTensor.on(sites, functional.max_pool(x.features, pairs, name=type(self).__name__))


class _AvgPool(Pool):
    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        *,
        dilation: Ints = 1,
        count: str = "present",
        anchor: str = "torch",
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation=dilation, anchor=anchor)
        if count not in ("present", "kernel"):
            raise ValueError(f'{type(self).__name__}: count must be "present" or "kernel", got {count!r}')
        self.count = count

    def forward(self, x: SparseTensor, target: SparseTensor | None = None) -> SparseTensor:
        """Pool `x`, onto the sites of `target` if given (a site without a pair gets 0)."""
        pairs, sites = self._lookup(x, target)
        out = functional.avg_pool(
            x.features, pairs, count=self.count, volume=self.geometry.volume, name=type(self).__name__
        )
        return SparseTensor.on(sites, out)

    def extra_repr(self) -> str:
        """Say the geometry and the count."""
        return f"{super().extra_repr()}, count={self.count!r}"


class _Unpool(Pool):
    transposed = True

    def forward(self, x: SparseTensor, target: SparseTensor | None = None) -> SparseTensor:
        """Spread `x` onto the sites of `target` (of every cell its kernel reaches if None), each the mean of its pairs."""
        pairs, sites = self._lookup(x, target)
        return SparseTensor.on(sites, functional.unpool(x.features, pairs, name=type(self).__name__))


class MaxPool1d(_MaxPool):
    """Maximum over the present sites along one axis; see `MaxPool3d`."""

    ndim = 1


class MaxPool2d(_MaxPool):
    """Maximum over the present sites of two axes; see `MaxPool3d`."""

    ndim = 2


class MaxPool3d(_MaxPool):
    """Maximum over the present sites under the kernel, as dense pooling with absent cells at minus infinity.

    Args: kernel_size, stride (default: kernel_size), padding, dilation: an int or one per axis; anchor as for `Conv3d`.
    Ties go to the lowest tap.
    """

    ndim = 3


class MaxPool4d(_MaxPool):
    """Maximum over the present sites of four axes; see `MaxPool3d`."""

    ndim = 4


class AvgPool1d(_AvgPool):
    """Mean of the sites along one axis; see `AvgPool3d`."""

    ndim = 1


class AvgPool2d(_AvgPool):
    """Mean of the sites of two axes; see `AvgPool3d`."""

    ndim = 2


class AvgPool3d(_AvgPool):
    """Mean of the present sites under the kernel (count="present"), or their sum over its volume (count="kernel").

    count="kernel" equals dense average pooling with absent cells at zero. Args otherwise as `MaxPool3d`.
    """

    ndim = 3


class AvgPool4d(_AvgPool):
    """Mean of the sites of four axes; see `AvgPool3d`."""

    ndim = 4


class Unpool1d(_Unpool):
    """Undo the site change of pooling along one axis; see `Unpool3d`."""

    ndim = 1


class Unpool2d(_Unpool):
    """Undo the site change of pooling over two axes; see `Unpool3d`."""

    ndim = 2


class Unpool3d(_Unpool):
    """Undo the site change of a pooling layer with the same geometry: `layer(x, target)` on the pooling's input sites.

    Each output site gets the mean of the input sites whose kernel reaches it: their copy where kernel_size = stride.
    Args as `MaxPool3d`.
    """

    ndim = 3


class Unpool4d(_Unpool):
    """Undo the site change of pooling over four axes; see `Unpool3d`."""

    ndim = 4


def sample_index(x: SparseTensor) -> Tensor:
    """Return the sample each row belongs to: int64 [N]."""
    return x.coords[:, 0].to(torch.int64)


class GlobalMaxPool(SparseLayer):
    """Maximum over each sample's rows: a plain tensor [batch_size, C]; an empty sample gives 0 with zero gradient."""

    def forward(self, x: SparseTensor) -> Tensor:
        """Reduce features [N, C] to [batch_size, C]."""
        x = check_input(self, x)
        return functional.segment_max(x.features, sample_index(x), x.batch_size)


class GlobalAvgPool(SparseLayer):
    """Mean over each sample's rows: a plain tensor [batch_size, C]; an empty sample gives 0 with zero gradient."""

    def forward(self, x: SparseTensor) -> Tensor:
        """Reduce features [N, C] to [batch_size, C]."""
        x = check_input(self, x)
        return functional.segment_mean(x.features, sample_index(x), x.batch_size)
