# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The compiled core's convolution over vector-sparse weights; `_native` says how arguments travel."""

from __future__ import annotations

from torch import Tensor

from ._native import buffer, core, device_of, optional
from ._scratch import KERNEL_SLOT, scratch

BLOCK: int = core.VECTOR_BLOCK  # output channels of a stored row


def vectors_gather_gemm(
    features: Tensor,
    offsets: Tensor,
    channels: Tensor,
    values: Tensor,
    bias: Tensor | None,
    pairs: Tensor,
    tap_offsets: Tensor,
    groups: int,
    out: Tensor,
) -> None:
    """`_native.gather_gemm` over stored rows (csrc/sparse/vectors_kernels.h)."""
    core.vectors_gather_gemm(
        device_of(features),
        buffer(features),
        buffer(offsets),
        buffer(channels),
        buffer(values),
        optional(bias),
        buffer(pairs),
        buffer(tap_offsets),
        groups,
        buffer(out),
    )


def vectors_gather_back(
    grad_out: Tensor,
    offsets: Tensor,
    channels: Tensor,
    values: Tensor,
    pairs: Tensor,
    tap_offsets: Tensor,
    groups: int,
    flip: bool,
    grad_in: Tensor,
) -> None:
    """grad_in[i] = the sum over the reversed pairs (o, i) of grad_out[o] @ weight[tap]^T."""
    core.vectors_gather_back(
        device_of(grad_out),
        buffer(grad_out),
        buffer(offsets),
        buffer(channels),
        buffer(values),
        buffer(pairs),
        buffer(tap_offsets),
        groups,
        flip,
        buffer(grad_in),
    )


def vectors_gather_outer(
    features: Tensor,
    grad_out: Tensor,
    offsets: Tensor,
    channels: Tensor,
    pairs: Tensor,
    tap_offsets: Tensor,
    groups: int,
    grad_values: Tensor,
) -> None:
    """grad_values[j] = the gradient of stored row j, 16 numbers."""
    arrays = (buffer(pairs), buffer(tap_offsets))
    bytes_needed = core.vectors_gather_outer_bytes(
        buffer(features), buffer(grad_out), *arrays, groups, len(channels)
    )
    core.vectors_gather_outer(
        device_of(features),
        buffer(features),
        buffer(grad_out),
        buffer(offsets),
        buffer(channels),
        buffer(pairs),
        buffer(tap_offsets),
        groups,
        buffer(grad_values),
        buffer(scratch(bytes_needed, KERNEL_SLOT)),
    )
