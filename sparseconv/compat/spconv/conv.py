# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""spconv's convolutions by name; `convolution` says what they do. Arguments stand in spconv's order."""

from __future__ import annotations

from typing import Any

from .constants import ConvAlgo
from .convolution import SparseConvolution
from .core import IndiceData, SparseConvTensor, expand_nd
from .modules import SparseModule

__all__ = [
    "ConvAlgo",
    "IndiceData",
    "SparseConvTensor",
    "SparseModule",
    "expand_nd",
]  # code takes them from here too

SparseConvolutionBase = SparseConvolution


class _Strided(SparseConvolution):
    _ndim: int
    _transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        algo: Any = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            self._ndim,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            indice_key=indice_key,
            algo=algo,
            fp32_accum=fp32_accum,
            record_voxel_count=record_voxel_count,
            large_kernel_fast_algo=large_kernel_fast_algo,
            name=name,
            transposed=self._transposed,
        )


class _Transposed(_Strided):
    _transposed = True


class _SubM(SparseConvolution):
    _ndim: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        algo: Any = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            self._ndim,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            subm=True,
            indice_key=indice_key,
            algo=algo,
            fp32_accum=fp32_accum,
            large_kernel_fast_algo=large_kernel_fast_algo,
            name=name,
        )


class _Inverse(SparseConvolution):
    _ndim: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        indice_key: str | None,
        bias: bool = True,
        algo: Any = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            self._ndim,
            in_channels,
            out_channels,
            kernel_size,
            bias=bias,
            inverse=True,
            indice_key=indice_key,
            algo=algo,
            fp32_accum=fp32_accum,
            large_kernel_fast_algo=large_kernel_fast_algo,
            name=name,
        )


def _classes(base: type, stem: str, what: str) -> list[type]:
    """The four classes of a kind, for 1 to 4 axes."""
    return [
        type(
            f"{stem}{ndim}d",
            (base,),
            {
                "_ndim": ndim,
                "__module__": __name__,
                "__doc__": f"{what} over {ndim} ax{'e' if ndim > 1 else 'i'}s; see `SparseConvolution`.",
            },
        )
        for ndim in range(1, 5)
    ]


SparseConv1d, SparseConv2d, SparseConv3d, SparseConv4d = _classes(_Strided, "SparseConv", "Convolution")
SubMConv1d, SubMConv2d, SubMConv3d, SubMConv4d = _classes(_SubM, "SubMConv", "Submanifold convolution")
SparseConvTranspose1d, SparseConvTranspose2d, SparseConvTranspose3d, SparseConvTranspose4d = _classes(
    _Transposed, "SparseConvTranspose", "Transposed convolution"
)
SparseInverseConv1d, SparseInverseConv2d, SparseInverseConv3d, SparseInverseConv4d = _classes(
    _Inverse, "SparseInverseConv", "Inverse of the convolution or pooling with its indice_key,"
)

DEFAULT_SPARSE_CONV_TYPES = {
    value for value in list(vars().values()) if isinstance(value, type) and hasattr(value, "_ndim")
}
__all__ += ["DEFAULT_SPARSE_CONV_TYPES", "SparseConvolution", "SparseConvolutionBase"]
__all__ += [kind.__name__ for kind in DEFAULT_SPARSE_CONV_TYPES]
