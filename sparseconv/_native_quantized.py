# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The compiled core's layers over quantized weights; `_native` says how arguments travel."""

from __future__ import annotations

from torch import Tensor

from ._native import buffer, core, device_of, optional
from ._scratch import KERNEL_SLOT, scratch


def quantized_gather_gemm(
    features: Tensor,
    bits: int,
    codes: Tensor,
    table: Tensor | None,
    scales: Tensor | None,
    run: int,
    bias: Tensor | None,
    pairs: Tensor,
    tap_offsets: Tensor,
    groups: int,
    out: Tensor,
) -> None:
    """`_native.gather_gemm` over a weight of codes (csrc/sparse/quantized_kernels.h)."""
    bytes_needed = core.gather_gemm_bytes(buffer(features), buffer(out), groups, len(tap_offsets) - 1)
    core.quantized_gather_gemm(
        device_of(features),
        buffer(features),
        bits,
        buffer(codes),
        optional(table),
        optional(scales),
        run,
        optional(bias),
        buffer(pairs),
        buffer(tap_offsets),
        groups,
        buffer(out),
        buffer(scratch(bytes_needed, KERNEL_SLOT)),
    )


def quantized_linear(
    x: Tensor,
    bits: int,
    codes: Tensor,
    table: Tensor | None,
    scales: Tensor | None,
    run: int,
    bias: Tensor | None,
    out: Tensor,
) -> None:
    """out [N, C_out] = bias + x [N, C_in] @ W, the weight of codes (csrc/sparse/quantized_kernels.h)."""
    core.quantized_linear(
        device_of(x),
        buffer(x),
        bits,
        buffer(codes),
        optional(table),
        optional(scales),
        run,
        optional(bias),
        buffer(out),
    )
