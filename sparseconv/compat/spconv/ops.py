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
from .functional import indice_conv, indice_maxpool
from .layer import geometry_of

__all__ = [
    "AlgoHint",
    "ConvAlgo",
    "get_conv_output_size",
    "get_deconv_output_size",
    "get_indice_pairs",
    "indice_conv",
    "indice_maxpool",
]


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
