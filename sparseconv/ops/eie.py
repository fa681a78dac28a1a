# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Packing of the EIE format and the linear operator over it.

Codes are uint8 [rows, cols], entries uint8 [E], pointers [pes, cols + 1] int32, or int16 with the bits of a uint16. "Run" arrays
are the same matrix with as many PEs as are worth running, its entries padded; gradients are summed in the order of the stored
one, so that no bit depends on the threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _native_eie
from ._library import below_autograd, define, recording, records, unwatched

ENTRIES_PER_PE = 1 << 17  # a thread with fewer, some 80 microseconds of work, costs more than it gains
ROWS_PER_PE = 4096  # of the sums that a PE keeps: what half a cache of 32 KB holds


def wide(pointers: Tensor) -> Tensor:
    """The pointers as int32."""
    return pointers.to(torch.int32) & 0xFFFF if pointers.dtype == torch.int16 else pointers.contiguous()


def pack(codes: Tensor, pes: int, padding: int = 0) -> tuple[Tensor, Tensor]:
    """Entries, `padding` zeros behind them, and pointers of the codes."""
    pointers = torch.empty(pes, codes.shape[1] + 1, dtype=torch.int32)
    overflow = _native_eie.count(codes, pointers)
    if overflow >= 0:
        raise ValueError(f"PE {overflow} of {pes} has more entries than 31 bits can count: take more PEs")
    entries = torch.zeros(int(pointers[:, -1].sum(dtype=torch.int64)) + padding, dtype=torch.uint8)
    _native_eie.pack(codes, pointers, entries)
    return entries, pointers


def unpack(entries: Tensor, pointers: Tensor, rows: int) -> Tensor:
    """Codes of a matrix that `find_error` found valid."""
    codes = torch.empty(rows, pointers.shape[1] - 1, dtype=torch.uint8)
    _native_eie.unpack(entries.contiguous(), wide(pointers), codes)
    return codes


def find_error(entries: Tensor, pointers: Tensor, rows: int) -> str:
    """What is wrong with a matrix, "" if nothing is; counts of entries that do not fit are a ValueError."""
    return _native_eie.find_error(entries.contiguous(), wide(pointers), rows)


def repack(entries: Tensor, pointers: Tensor, rows: int, threads: int) -> tuple[Tensor, Tensor]:
    """The run arrays for so many threads; the stored ones, padded, where the number of PEs is the same."""
    threads = max(1, min(threads, len(entries) // ENTRIES_PER_PE))
    pes = threads * max(1, -(-rows // (threads * ROWS_PER_PE)))
    if pes == pointers.shape[0]:
        return torch.nn.functional.pad(entries, (0, _native_eie.PADDING)), wide(pointers)
    return pack(unpack(entries, pointers, rows), pes, _native_eie.PADDING)


def _eie_linear(x: Tensor, codebook: Tensor, bias: Tensor | None, rows: int, *arrays: Tensor) -> Tensor:
    run_entries, run_pointers = arrays[:2]
    out = x.new_empty(x.shape[0], rows)
    _native_eie.linear(
        x.contiguous(),
        run_entries,
        run_pointers,
        codebook.contiguous(),
        None if bias is None else bias.contiguous(),
        out,
    )
    return out


def _eie_linear_grad(
    grad_out: Tensor, x: Tensor, codebook: Tensor, entries: Tensor, pointers: Tensor
) -> tuple[Tensor, Tensor]:
    grad_x, grad_codebook = torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty(16)
    _native_eie.linear_grad(
        grad_out.contiguous(),
        x.contiguous(),
        entries,
        wide(pointers),
        codebook.contiguous(),
        grad_x,
        grad_codebook,
    )
    return grad_x, grad_codebook


class _EieLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, codebook: Tensor, bias: Tensor | None, rows: int, *arrays: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, codebook, *arrays[2:])
        with below_autograd():
            return torch.ops.sparseconv.eie_linear.default(x, codebook, bias, rows, *arrays)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_x = grad_codebook = grad_bias = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            grad_x, grad_codebook = torch.ops.sparseconv.eie_linear_grad.default(grads[0], *ctx.saved_tensors)
        if ctx.needs_input_grad[2]:
            grad_bias = torch.ops.sparseconv.column_sum.default(grads[0].contiguous())
        return grad_x, grad_codebook, grad_bias, None, None, None, None, None


define(
    "eie_linear(Tensor x, Tensor codebook, Tensor? bias, SymInt rows, Tensor run_entries, Tensor run_pointers, "
    "Tensor entries, Tensor pointers) -> Tensor",
    _eie_linear,
    lambda x, codebook, bias, rows, *arrays: x.new_empty(x.shape[0], rows),
    recording("eie_linear", _EieLinear, 3),
)
define(
    "eie_linear_grad(Tensor grad_out, Tensor x, Tensor codebook, Tensor entries, Tensor pointers) -> (Tensor, Tensor)",
    _eie_linear_grad,
    lambda grad_out, x, codebook, entries, pointers: (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        codebook.new_empty(16),
    ),
)


def linear(
    x: Tensor,
    codebook: Tensor,
    bias: Tensor | None,
    rows: int,
    run: tuple[Tensor, Tensor],
    stored: tuple[Tensor, Tensor],
) -> Tensor:
    """[batch, rows] = bias + W x; gradients for x, codebook and bias."""
    if not records(x, codebook, bias) and unwatched(x, codebook, bias):
        return _eie_linear(x, codebook, bias, rows, *run)
    out: Tensor = torch.ops.sparseconv.eie_linear.default(x, codebook, bias, rows, *run, *stored)
    return out
