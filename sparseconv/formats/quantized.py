# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Weights as codes of 8 or 4 bits: how they are chosen, packed, measured in bits, and decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops.codes import code_bytes, decode, pack_codes, unpack_codes

SCALES = ("mse", "minmax")
SHARES = 49  # candidates for a scale by mean square error: 1, 0.9875, ... 0.4 of the one that clips nothing
LEVELS = 16


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight [K, C_in, C_out] of codes, worth `table[code] * scale` (4 bits) or `code * scale` (8 bits), in float32.

    Attributes:
        shape: [K, C_in, C_out]; C_in is that of one group of channels.
        bits: 8 or 4.
        codes: uint8 [bytes], in the order of csrc/sparse/quantized_kernels.h.
        scales: 8 bits: float32 [C_out]. 4 bits: bfloat16 [K, ceil(C_in / group_size), C_out], or None with a codebook.
        table: float32 [16] for 4 bits: -8 .. 7, or a codebook.
        group_size: consecutive input channels that share a scale, for 4 bits.

    Raises:
        ValueError: parts that do not fit each other, or scales and tables that are not finite.
    """

    shape: tuple[int, int, int]
    bits: int
    codes: Tensor
    scales: Tensor | None
    table: Tensor | None
    group_size: int = 32

    def __post_init__(self) -> None:
        taps, channels_in, channels_out = self.shape
        if self.bits not in (4, 8):
            raise ValueError(f"quantized weight: bits must be 8 or 4, got {self.bits!r}")
        if self.group_size < 1:
            raise ValueError(f"quantized weight: group_size must be at least 1, got {self.group_size!r}")
        runs = -(-channels_in // self.group_size)
        _require("codes", self.codes, torch.uint8, (code_bytes(self.bits, *self.shape),))
        if self.bits == 8:
            _require("scales", self.scales, torch.float32, (channels_out,))
            if self.table is not None:
                raise ValueError("quantized weight: codes of 8 bits have no table")
        else:
            _require("table", self.table, torch.float32, (LEVELS,))
            if self.scales is not None:
                _require("scales", self.scales, torch.bfloat16, (taps, runs, channels_out))

    def decode(self) -> Tensor:
        """The weight [K, C_in, C_out], float32: exactly what the kernels multiply by."""
        return decode(self.codes, self.bits, self.table, self.scales, self.group_size, self.shape)

    def raw_codes(self) -> Tensor:
        """The codes as int8 (8 bits) or as places in the table, uint8 (4 bits), [K, C_in, C_out]."""
        raw = unpack_codes(self.codes, self.bits, self.shape)
        return raw.view(torch.int8) if self.bits == 8 else raw

    @property
    def size_in_bits(self) -> int:
        """Codes, scales and table: K * C_in * C_out * bits where C_out is even, and what they share."""
        parts = (self.codes, self.scales, self.table)
        return sum(x.numel() * x.element_size() * 8 for x in parts if x is not None)


def _require(name: str, x: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if not isinstance(x, Tensor) or x.dtype != dtype or tuple(x.shape) != shape:
        got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"quantized weight: {name} must be {dtype} {list(shape)}, got {got}")
    if x.is_floating_point() and x.device.type != "meta" and not bool(torch.isfinite(x).all()):
        raise ValueError(f"quantized weight: {name} must be finite")


def quantize_weight(
    weight: Tensor, bits: int = 8, *, group_size: int = 32, codebook: bool = False, scale: str = "mse"
) -> QuantizedWeight:
    """A weight as symmetric codes: of 8 bits with a scale for each output channel, of 4 bits with one for each group.

    With s the scale in its stored type, a code is round(w / s), ties to even, within -127 .. 127 or -7 .. 7: where it is not cut
    off, |w - code * s| <= s / 2. Zeros stay zeros, with a codebook too.

    Args:
        weight: [K, C_in, C_out], floating point, finite.
        bits: 8 or 4.
        group_size: for 4 bits, consecutive input channels of one tap and output channel that share a scale (the last group of
            C_in may be smaller).
        codebook: for 4 bits, 16 values of the whole weight in place of scales: centroids of Lloyd's algorithm in one dimension,
            from evenly spaced ones between the smallest and the largest weight (Han et al., "Deep Compression", ICLR 2016).
        scale: "minmax" takes the largest |w| / 127 (or 7), rounded up, which cuts nothing off; "mse" of 49 shares of it, from all
            down to 0.4, the one with the least mean square error.

    Raises:
        ValueError, TypeError: another shape or type, weights that are not finite, unknown options.
    """
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise TypeError(
            f"quantize_weight takes a floating-point tensor, got {getattr(weight, 'dtype', type(weight))}"
        )
    if weight.ndim != 3:
        raise ValueError(f"quantize_weight takes a weight [K, C_in, C_out], got {list(weight.shape)}")
    if bits not in (4, 8):
        raise ValueError(f"bits must be 8 or 4, got {bits!r}")
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {SCALES}, got {scale!r}")
    if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
        raise ValueError(f"group_size must be a positive int, got {group_size!r}")
    if codebook and bits != 4:
        raise ValueError("a codebook has 16 entries: bits must be 4")
    values = weight.detach().double()
    if not bool(torch.isfinite(values).all()):
        raise ValueError("quantize_weight takes finite weights, got infinities or NaNs")
    taps, channels_in, channels_out = values.shape
    shape = (taps, channels_in, channels_out)
    if codebook:
        table, codes = _codebook(values)
        return QuantizedWeight(shape, 4, pack_codes(codes, 4), None, table, group_size)
    if bits == 8:
        scales, signed = _scaled(
            values.reshape(1, taps * channels_in, channels_out), 127, torch.float32, scale
        )
        codes = signed.reshape(shape).to(torch.int8).view(torch.uint8)
        return QuantizedWeight(shape, 8, pack_codes(codes, 8), scales.reshape(channels_out), None, group_size)
    runs = -(-channels_in // group_size)
    padded = torch.nn.functional.pad(values, (0, 0, 0, runs * group_size - channels_in))
    grouped = padded.reshape(taps * runs, group_size, channels_out)
    scales, signed = _scaled(grouped, 7, torch.bfloat16, scale)
    codes = (signed.reshape(taps, runs * group_size, channels_out)[:, :channels_in] + 8).to(torch.uint8)
    table = torch.arange(-8.0, 8.0, device=values.device)
    return QuantizedWeight(
        shape, 4, pack_codes(codes, 4), scales.reshape(taps, runs, channels_out), table, group_size
    )


def _scaled(values: Tensor, limit: int, dtype: torch.dtype, choice: str) -> tuple[Tensor, Tensor]:
    """For values [G, n, C]: scales [G, C] of `dtype`, and codes [G, n, C] within +-limit, float64."""
    top = values.abs().amax(1) if values.shape[1] else values.new_zeros(values.shape[0], values.shape[2])
    best, least = _rounded_up(top / limit, dtype), None
    if choice == "mse":
        single, work = values.float(), torch.empty(values.shape, dtype=torch.float32, device=values.device)
        for number in range(SHARES):
            scales = _rounded_up(top / limit * (1 - 0.0125 * number), dtype)
            wide = scales.float()[:, None]
            torch.mul(single, torch.where(wide > 0, 1 / wide, 0), out=work)
            error = work.round_().clamp_(-limit, limit).mul_(wide).sub_(single).square_().sum(1)
            if least is None:
                best, least = scales, error
            else:
                best = torch.where(error < least, scales, best)
                least = torch.minimum(error, least)
    return best, _codes(values, best, limit)


def _codes(values: Tensor, scales: Tensor, limit: int) -> Tensor:
    wide = scales.double()[:, None]
    return torch.where(wide > 0, values / wide, 0).round().clamp(-limit, limit)


def _rounded_up(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The least number of `dtype` that is not below x >= 0."""
    near = x.to(dtype)
    above = torch.nextafter(near, torch.full_like(near, float("inf")))
    return torch.where(near.double() < x, above, near)


def _codebook(values: Tensor) -> tuple[Tensor, Tensor]:
    """16 values, float32 and ascending, and the nearest one's place for each weight, uint8; 0 is one where a weight is 0."""
    flat = values.reshape(-1)
    others = flat[flat != 0]
    zeros = others.numel() < flat.numel()
    centroids = lloyd(others, LEVELS - 1 if zeros else LEVELS)
    if zeros:
        centroids = torch.cat([centroids, centroids.new_zeros(1)])
    table = centroids.float().sort().values
    table = torch.cat([table, table.new_zeros(LEVELS - len(table))]) if len(table) < LEVELS else table
    table = table.sort().values
    wide = table.double()
    codes = torch.bucketize(values.contiguous(), (wide[1:] + wide[:-1]) / 2)
    if zeros:
        codes = torch.where(values == 0, int((wide == 0).nonzero()[0, 0]), codes)
    return table, codes.to(torch.uint8)


def lloyd(values: Tensor, count: int, rounds: int = 100) -> Tensor:
    """Centroids float64 [count] of values, by Lloyd's algorithm from evenly spaced ones; a centroid without values stays.

    Exact on sorted values: a cluster is a run, its mean a difference of running sums.
    """
    if values.numel() == 0:
        return values.new_zeros(count)
    ordered = values.sort().values
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    centroids = torch.linspace(0, 1, count, dtype=torch.float64, device=values.device)
    centroids = ordered[0] + centroids * (ordered[-1] - ordered[0])
    for _ in range(rounds):
        ends = torch.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2, right=True)
        ends = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(ordered))])
        sizes = ends.diff()
        means = (sums[ends[1:]] - sums[ends[:-1]]) / sizes.clamp(min=1)
        moved = torch.where(sizes > 0, means, centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved.sort().values
    return centroids
