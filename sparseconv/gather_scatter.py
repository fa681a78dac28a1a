# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The gather-matmul-scatter dataflow (TorchSparse, Tang et al., MLSys 2022), in torch's own operators.

It is the reference that the fused kernels are tested against, and a choice by name; its bits depend on BLAS.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .pairs import KernelMap

WASTE = (
    0.25  # taps share one batched product while padding them to the longest adds at most this share of rows
)


@dataclass(frozen=True)
class TapGroup:
    """Taps multiplied in one batch, each padded to `rows` pairs."""

    taps: list[int]
    rows: int


def group_taps(counts: list[int], waste: float = WASTE) -> list[TapGroup]:
    """Groups taps of similar pair counts (adaptive matmul grouping); taps without a pair are left out."""
    groups: list[TapGroup] = []
    current: list[int] = []
    pairs = 0
    for tap in sorted((t for t, count in enumerate(counts) if count), key=lambda t: (-counts[t], t)):
        rows = counts[current[0]] if current else counts[tap]
        if current and rows * (len(current) + 1) > (1 + waste) * (pairs + counts[tap]):
            groups.append(TapGroup(current, rows))
            current, pairs = [], 0
        current.append(tap)
        pairs += counts[tap]
    if current:
        groups.append(TapGroup(current, counts[current[0]]))
    return groups


def conv(
    features: Tensor, weight: Tensor, bias: Tensor | None, kernel_map: KernelMap, groups: int = 1
) -> Tensor:
    """`functional.conv` by gather, torch.bmm over groups of taps, and a scatter, group by group in a fixed order."""
    pairs = kernel_map.pairs.to(torch.int64)
    offsets = kernel_map.tap_offsets.tolist()
    # The zero keeps features and weight in the graph where the map has no pair.
    out = features.new_zeros(kernel_map.n_out, weight.shape[2]) + features[:0].sum() + weight[:0].sum()
    if bias is not None:
        out = out + bias
    for group in group_taps([end - begin for begin, end in pairwise(offsets)]):
        # Short taps are filled up with row 0, whose products are dropped.
        rows = pairs.new_zeros(len(group.taps), group.rows)
        for row, tap in zip(rows, group.taps, strict=True):
            row[: offsets[tap + 1] - offsets[tap]] = pairs[offsets[tap] : offsets[tap + 1], 0]
        gathered = features.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        product = _grouped_bmm(gathered, weight[group.taps], groups)
        for block, tap in zip(product, group.taps, strict=True):
            to = pairs[offsets[tap] : offsets[tap + 1], 1]
            out.index_add_(0, to, block[: len(to)])
    return out


def _grouped_bmm(rows: Tensor, weight: Tensor, groups: int) -> Tensor:
    """[T, R, C_in] @ [T, C_in / groups, C_out] -> [T, R, C_out], each group of channels on its own."""
    if groups == 1:
        return torch.bmm(rows, weight)
    parts = zip(rows.chunk(groups, 2), weight.chunk(groups, 2), strict=True)
    return torch.cat([torch.bmm(x, w) for x, w in parts], 2)
