# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""A 2:4 weight as the sparse tensor cores read it (csrc/compute/cuda/sparse_gemm.cuh)."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_2to4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The kept values of a weight of which each 4 input channels have at most 2 that are not zero, and their places.

    Args:
        weight: [K, C_in, C_out], float16 or bfloat16, C_in a multiple of 32 and C_out of 16.

    Returns:
        values [K, C_out, C_in / 2], and int32 [K, C_out / 16, C_in / 32, 16]: word 2 r + h of 16 output and 32 input channels
        has the places, 2 bits each, of output channel r in its low half and of r + 8 in its high half, for the h-th 16 input
        channels.

    Raises:
        ValueError: for another type or shape, or a group of 4 with more than 2 that are not zero.
    """
    if weight.dtype not in (torch.float16, torch.bfloat16) or weight.ndim != 3:
        raise ValueError(
            f"a 2:4 weight is [K, C_in, C_out] in float16 or bfloat16, got {list(weight.shape)} in {weight.dtype}"
        )
    taps, c_in, c_out = weight.shape
    if c_in % 32 or c_out % 16:
        raise ValueError(f"a 2:4 weight has 32 n input and 16 m output channels, got {c_in} -> {c_out}")
    fours = weight.transpose(1, 2).reshape(taps, c_out, c_in // 4, 4)
    kept = fours != 0
    if bool((kept.sum(3) > 2).any()):
        tap, channel, four = (kept.sum(3) > 2).nonzero()[0].tolist()
        raise ValueError(
            f"each 4 input channels of a 2:4 weight have at most 2 that are not zero, got more at tap {tap}, "
            f"input channels {4 * four} .. {4 * four + 3}, output channel {channel}"
        )
    # Where fewer than 2 are not zero, the first zeros fill up.
    places = kept.to(torch.int8).sort(dim=3, descending=True, stable=True).indices[..., :2].sort(3).values
    values = fours.gather(3, places).reshape(taps, c_out, c_in // 2)
    codes = (places[..., 0] | places[..., 1] << 2).view(taps, c_out, c_in // 32, 2, 4)
    shifts = torch.arange(0, 16, 4, device=weight.device)
    halves = (codes << shifts).sum(4).view(taps, c_out // 16, 2, 8, c_in // 32, 2)
    words = (halves[:, :, 0] | halves[:, :, 1] << 16).transpose(2, 3)
    signed = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
    return values, signed.reshape(taps, c_out // 16, c_in // 32, 16)
