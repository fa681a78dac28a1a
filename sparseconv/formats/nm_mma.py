# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""2:4 weights in the order in which sparse tensor cores take them: operand A of `mma.sp.m16n8k32` for 16-bit floats."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .nm import NMWeight

ROWS, DEPTH = 16, 32  # of operand A, in output channels and in input channels
EMPTY = 0x0E  # the metadata of a run of zeros, places 2 and 3


def mma_sp_operand_a(weight: NMWeight) -> tuple[Tensor, Tensor]:
    """A 2:4 weight as registers of `mma.sp{::ordered_metadata}.sync.aligned.m16n8k32.row.col.f32.{f16,bf16}`.

    Operand A is the transposed weight of a tap, 16 output channels by 32 input channels, of which 16 are stored; both are filled
    up with zeros. Lane l holds of rows g = l / 4 and g + 8 the two values of input channels 4 t .. 4 t + 3 and 16 more, t = l %
    4.

    Args:
        weight: 2:4, values float16 or bfloat16.

    Returns:
        values [K, ceil(C_out / 16), ceil(C_in / 32), 32 lanes, 4 registers, 2], the first of two in the lower half of a register.
        metadata int32 [K, ceil(C_out / 16), ceil(C_in / 32), 32 lanes]: low 16 bits of row g, high 16 of row g + 8, four runs of
        the first (t even) or second half (t odd) of the input channels. Both pairs of lanes have it, so the sparsity selector may
        be 0 or 1.

    Raises:
        ValueError: another pattern or type.

    Source: PTX ISA, "Matrix fragments for sparse mma.m16n8k32 with .f16 and .bf16 types".
    """
    if (weight.n, weight.m) != (2, 4) or weight.values.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"mma.sp takes 2:4 in float16 or bfloat16, got {weight.n}:{weight.m} in {weight.values.dtype}"
        )
    taps, _, channels_out = weight.shape
    runs = weight.values.shape[2]
    more_rows, more_runs = -channels_out % ROWS, -runs % (DEPTH // 4)
    values = pad(weight.values, (0, 0, 0, more_runs, 0, more_rows))
    nibbles = pad(_nibbles(weight, runs), (0, more_runs, 0, more_rows), value=EMPTY)
    # [K, row tile, half of 16 rows, g, depth tile, half of 32 channels, t, 2] -> [K, row tile, depth tile, g, t, half, row half,
    # 2]
    tiles = values.view(taps, -1, 2, 8, values.shape[2] // 8, 2, 4, 2)
    registers = tiles.permute(0, 1, 4, 3, 6, 5, 2, 7).reshape(taps, tiles.shape[1], tiles.shape[4], 32, 4, 2)
    words = nibbles.view(taps, -1, 2, 8, nibbles.shape[2] // 8, 2, 4) << 4 * torch.arange(
        4, device=nibbles.device
    )
    halves = words.sum(-1)  # [K, row tile, row half, g, depth tile, channel half]
    both = (halves[:, :, 0] | halves[:, :, 1] << 16).permute(
        0, 1, 3, 2, 4
    )  # [K, row tile, depth tile, g, channel half]
    metadata = both.repeat(1, 1, 1, 1, 2).reshape(taps, tiles.shape[1], tiles.shape[4], 32)
    return registers.contiguous(), torch.where(metadata >= 2**31, metadata - 2**32, metadata).to(torch.int32)


def _nibbles(weight: NMWeight, runs: int) -> Tensor:
    """int64 [K, C_out, runs]."""
    both = torch.stack([weight.metadata & 15, weight.metadata >> 4], -1).flatten(2)
    return both[:, :, :runs].long()
