# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""2:4 weights as the GPU's sparse tensor cores read them (csrc/compute/cuda/sparse_gemm.cuh)."""

from __future__ import annotations

import torch
from torch import Tensor

from .nm import NMWeight

ROWS, DEPTH = 16, 32  # output and input channels of one `mma.sp.m16n8k32`
TYPES = (torch.float16, torch.bfloat16)


def fits_mma_sp(n: int, m: int, shape: tuple[int, int, int], dtype: torch.dtype) -> bool:
    """Whether a weight [K, C_in, C_out] is 2:4 in 16 bits and fills the tiles of `mma.sp.m16n8k32`."""
    taps, channels_in, channels_out = shape
    fills = channels_in % DEPTH == 0 and channels_out % ROWS == 0 and taps * channels_in * channels_out > 0
    return (n, m) == (2, 4) and dtype in TYPES and fills


def mma_sp_operands(weight: NMWeight) -> tuple[Tensor, Tensor]:
    """The kept values of a 2:4 weight and the words that lanes of a warp hold of their places.

    Operand A of `mma.sp{::ordered_metadata}.sync.aligned.m16n8k32.row.col.f32.{f16,bf16}` is the transposed weight of a tap, 16
    output channels by 32 input channels, of which 16 are stored.

    Args:
        weight: 2:4, values float16 or bfloat16, C_in a multiple of 32 and C_out of 16.

    Returns:
        values [K, C_out, C_in / 2], and int32 [K, C_out / 16, C_in / 32, 16]: word 2 r + h of 16 output and 32 input channels
        has the places, 2 bits each, of output channel r in its low half and of r + 8 in its high half, for the h-th 16 input
        channels.

    Raises:
        ValueError: another pattern, type or shape.

    Source: PTX ISA, "Matrix fragments for sparse mma.m16n8k32 with .f16 and .bf16 types".
    """
    if not fits_mma_sp(weight.n, weight.m, weight.shape, weight.values.dtype):
        raise ValueError(
            f"mma.sp takes 2:4 in float16 or bfloat16 with {DEPTH} n input and {ROWS} m output channels, "
            f"got {weight.n}:{weight.m} in {weight.values.dtype} with {weight.shape[1]} -> {weight.shape[2]}"
        )
    taps, channels_in, channels_out = weight.shape
    values = weight.values.flatten(2).contiguous()
    # Two bytes have the places of 16 input channels, the lowest first.
    halves = weight.metadata.long().view(taps, channels_out // ROWS, 2, 8, channels_in // DEPTH, 2, 2)
    halves = halves[..., 0] | halves[..., 1] << 8
    words = (halves[:, :, 0] | halves[:, :, 1] << 16).transpose(2, 3)
    signed = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
    return values, signed.reshape(taps, channels_out // ROWS, channels_in // DEPTH, 16)
