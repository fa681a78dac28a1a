# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""How weights of 8- and 4-bit codes lie in memory, in torch's own operators; csrc/sparse/quantized_kernels.h reads the same."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64  # output channels whose codes lie together


def code_bytes(bits: int, taps: int, channels_in: int, channels_out: int) -> int:
    """Bytes of the codes of a weight [taps, channels_in, channels_out]: rows of a block are whole bytes."""
    full, rest = divmod(channels_out, BLOCK)
    return taps * channels_in * (full * BLOCK * bits // 8 + -(-rest * bits // 8))


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """uint8 [code_bytes] from uint8 codes [K, C_in, C_out]; 4 bits: a block's first half of channels in low halves of bytes."""
    taps, _, channels_out = codes.shape
    full = channels_out - channels_out % BLOCK
    blocks = codes[:, :, :full].unflatten(2, (-1, BLOCK)).transpose(1, 2)
    parts = [blocks, codes[:, None, :, full:]]
    if bits == 4:
        parts = [_two_a_byte(part) for part in parts]
    return torch.cat([part.reshape(taps, -1) for part in parts], 1).reshape(-1).contiguous()


def unpack_codes(packed: Tensor, bits: int, shape: tuple[int, int, int]) -> Tensor:
    """uint8 codes [K, C_in, C_out] from what `pack_codes` made of them."""
    taps, channels_in, channels_out = shape
    rest = channels_out % BLOCK
    full = channels_out // BLOCK
    row = BLOCK * bits // 8
    packed = packed.view(taps, code_bytes(bits, 1, channels_in, channels_out))
    blocks = packed[:, : full * channels_in * row].view(taps, full, channels_in, row)
    last = packed[:, full * channels_in * row :].view(taps, channels_in, -(-rest * bits // 8))
    if bits == 4:
        blocks, last = _halves(blocks), _halves(last)[..., :rest]
    return torch.cat([blocks.transpose(1, 2).reshape(taps, channels_in, full * BLOCK), last], 2)


def _two_a_byte(codes: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(codes, (0, codes.shape[-1] % 2)).unflatten(-1, (2, -1))
    return padded[..., 0, :] | padded[..., 1, :] << 4


def _halves(packed: Tensor) -> Tensor:
    return torch.cat([packed & 15, packed >> 4], -1)


def decode(
    codes: Tensor,
    bits: int,
    table: Tensor | None,
    scales: Tensor | None,
    run: int,
    shape: tuple[int, int, int],
) -> Tensor:
    """The weight [K, C_in, C_out] float32: int8 code or table[code], times its scale in float32."""
    raw = unpack_codes(codes, bits, shape)
    values = raw.view(torch.int8).float() if table is None else table[raw.int()]
    if scales is None:
        return values
    wide = scales.float()
    if bits == 4:  # [K, runs, C_out]
        wide = wide.repeat_interleave(run, 1)[:, : shape[1]]
    return values * wide
