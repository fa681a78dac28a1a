# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The few of spconv's operations that networks call themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ... import kernel_map
from .cells import Cells
from .constants import AlgoHint, ConvAlgo
from .core import IndiceData
from .functional import (
    implicit_gemm,
    indice_avgpool_implicit_gemm,
    indice_conv,
    indice_maxpool,
    indice_maxpool_implicit_gemm,
)
from .layer import geometry_of
from .left_out import KERNELS, left_out

__all__ = [
    "AlgoHint",
    "ConvAlgo",
    "get_conv_output_size",
    "get_deconv_output_size",
    "get_indice_pairs",
    "implicit_gemm",
    "indice_avgpool_implicit_gemm",
    "indice_conv",
    "indice_maxpool",
    "indice_maxpool_implicit_gemm",
]

fused_indice_conv = left_out("ops.fused_indice_conv", KERNELS)
get_indice_pairs_implicit_gemm = left_out("ops.get_indice_pairs_implicit_gemm", KERNELS)
global_pool_rearrange = left_out("ops.global_pool_rearrange", KERNELS)
implicit_gemm_backward = left_out("ops.implicit_gemm_backward", KERNELS)
indice_avgpool_implicit_gemm_backward = left_out("ops.indice_avgpool_implicit_gemm_backward", KERNELS)
indice_conv_backward = left_out("ops.indice_conv_backward", KERNELS)
indice_maxpool_backward = left_out("ops.indice_maxpool_backward", KERNELS)
indice_maxpool_implicit_gemm_backward = left_out("ops.indice_maxpool_implicit_gemm_backward", KERNELS)
maximum_value_int_ = left_out("ops.maximum_value_int_", KERNELS)


def get_conv_output_size(
    input_size: Sequence[int], kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> list[int]:
    """The shape after a convolution."""
    return [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(input_size, kernel_size, stride, padding, dilation, strict=True)
    ]


def get_deconv_output_size(
    input_size: Sequence[int],
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,  # noqa: ARG001
    output_padding: Any,
) -> list[int]:
    """The shape after a transposed convolution, which does not depend on the dilation."""
    return [
        (n - 1) * s - 2 * p + k + o
        for n, k, s, p, o in zip(input_size, kernel_size, stride, padding, output_padding, strict=True)
    ]


def get_indice_pairs(
    indices: Tensor,
    batch_size: int,
    spatial_shape: Sequence[int],
    algo: Any,
    ksize: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out_padding: Sequence[int],
    subm: bool = False,
    transpose: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output indices int32 [M, 1 + D], pairs int32 [2, K, N] filled up with -1, and their numbers int32 [K]."""
    cells = Cells.of(indices, spatial_shape, batch_size)
    geometry = geometry_of(
        len(ksize), ksize, stride, padding, dilation, out_padding, subm=subm, transposed=transpose
    )
    found, sites = kernel_map.lookup(cells.sites, geometry)
    out = sites.coords
    shape = list(spatial_shape)
    data = IndiceData(
        out,
        indices,
        shape,
        shape,
        subm,
        algo,
        [*ksize],
        [*stride],
        [*dilation],
        [*padding],
        cells,
        Cells(out, sites),
        found,
    )
    return out, data.indice_pairs, data.indice_pair_num
