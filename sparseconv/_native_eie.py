# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The compiled core's functions on the EIE format (csrc/sparse/eie_kernels.h); `_native` says how arguments travel.

Codes are uint8 [rows, cols], entries uint8 [E], pointers int32 [pes, cols + 1].
"""

from __future__ import annotations

from torch import Tensor

from ._native import buffer, core, device_of, optional

PADDING: int = core.EIE_PADDING  # bytes beyond the last entry that `linear` needs


def count(codes: Tensor, pointers: Tensor) -> int:
    """Writes the pointers of a matrix; returns the first PE with too many entries to count, or -1."""
    overflow: int = core.eie_count(device_of(codes), buffer(codes), buffer(pointers))
    return overflow


def pack(codes: Tensor, pointers: Tensor, entries: Tensor) -> None:
    """Writes the entries that `count` counted."""
    core.eie_pack(device_of(codes), buffer(codes), buffer(pointers), buffer(entries))


def unpack(entries: Tensor, pointers: Tensor, codes: Tensor) -> None:
    """Writes the codes of a matrix in which `find_error` finds nothing."""
    core.eie_unpack(device_of(entries), buffer(entries), buffer(pointers), buffer(codes))


def find_error(entries: Tensor, pointers: Tensor, rows: int) -> str:
    """What is wrong with a matrix; "" if nothing is."""
    error: str = core.eie_find_error(device_of(entries), buffer(entries), buffer(pointers), rows)
    return error


def linear(
    x: Tensor, entries: Tensor, pointers: Tensor, codebook: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    """out [batch, rows] = bias + W x, columns with a zero activation skipped; entries have PADDING bytes more."""
    core.eie_linear(
        device_of(x),
        buffer(x),
        buffer(entries),
        buffer(pointers),
        buffer(codebook),
        optional(bias),
        buffer(out),
    )


def linear_grad(
    grad_out: Tensor,
    x: Tensor,
    entries: Tensor,
    pointers: Tensor,
    codebook: Tensor,
    grad_x: Tensor,
    grad_codebook: Tensor,
) -> None:
    """The gradients of `linear` with respect to x and the codebook."""
    core.eie_linear_grad(
        device_of(x),
        buffer(grad_out),
        buffer(x),
        buffer(entries),
        buffer(pointers),
        buffer(codebook),
        buffer(grad_x),
        buffer(grad_codebook),
    )
