# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Vector-sparse weights for the tests of them: patterns, layers, and what counts as equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from engine import random_tensor
from hypothesis import strategies as st
from strategies import Case, same_bits

import sparseconv
import sparseconv.nn as snn
from sparseconv.formats import pack_vectors

GROUPS = (1, 1, 2, 3)
DENSITIES = (0.0, 0.1, 0.5, 0.9, 1.0)


def rows_of(weight: np.ndarray, groups: int) -> list[tuple[int, int, int, slice]]:
    """(tap, block, channel, columns) of every row of up to 16 output channels of one group, in the format's order."""
    taps, channels, c_out = weight.shape
    width = c_out // groups
    blocks = []
    for g in range(groups):
        blocks += [
            slice(g * width + c, min(g * width + c + 16, (g + 1) * width)) for c in range(0, width, 16)
        ]
    return [
        (t, b, c, columns) for t in range(taps) for b, columns in enumerate(blocks) for c in range(channels)
    ]


def vector_pattern(weight: np.ndarray, groups: int, density: float, seed: int) -> np.ndarray:
    """bool of the weight's shape: rows of 16 that stay."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(weight.shape, bool)
    for t, _, c, columns in rows_of(weight, groups):
        mask[t, c, columns] = rng.random() < density
    return mask


@st.composite
def weights(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    groups = draw(st.sampled_from(GROUPS))
    taps, channels = draw(st.integers(0, 4)), draw(st.sampled_from([0, 1, 2, 7, 8, 9, 15, 16, 17, 33]))
    width = draw(st.sampled_from([0, 1, 7, 15, 16, 17, 31, 32, 33, 48]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.standard_normal((taps, channels, groups * width))
    if draw(st.booleans()):
        weight = weight * (rng.random(weight.shape) < 0.2)  # single zeros within rows
    weight = weight * vector_pattern(weight, groups, draw(st.sampled_from(DENSITIES)), 1)
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    return torch.from_numpy(weight).to(dtype), groups


def pruned(case: Case, density: float, wide: int = 0) -> Case:
    """The case with rows of 16 output channels of its weight at zero; `wide` more output channels for a group."""
    case = replace(case, c_out=case.c_out + wide * case.groups)
    weight = case.numbers["weight"]
    weight *= vector_pattern(weight, case.groups, density, case.seed)
    return case


def same_sums(got: torch.Tensor, want: torch.Tensor) -> None:
    """The same bits, but for the sign of zeros; to rounding in bfloat16, whose dense sums take channels in pairs."""
    if got.dtype == torch.bfloat16:
        got, want = got.detach().float(), want.detach().float()
        assert ((got - want).abs() <= 2**-7 * want.abs() + 1e-4).all()
        return
    same_bits(got + 0.0, want + 0.0)


LAYERS = {
    "SubMConv3d": lambda a, b, **k: snn.SubMConv3d(a, b, 3, **k),
    "Conv3d": lambda a, b, **k: snn.Conv3d(a, b, 3, stride=2, padding=1, **k),
    "ConvTranspose3d": lambda a, b, **k: snn.ConvTranspose3d(a, b, 2, stride=2, **k),
    "InverseConv3d": lambda a, b, **k: snn.InverseConv3d(a, b, 3, stride=2, padding=1, **k),
}


def pruned_layer(
    name: str, c_in: int, c_out: int, density: float, dtype: torch.dtype = torch.float32, **options: int
) -> snn.SparseConvolution:
    layer = LAYERS[name](c_in, c_out, **options).to(dtype)
    groups = options.get("groups", 1)
    with torch.no_grad():
        pattern = vector_pattern(np.empty(layer.weight.shape), groups, density, 3)
        layer.weight.mul_(torch.from_numpy(pattern))
    return layer


def small_arguments() -> tuple[torch.Tensor, ...]:
    x = random_tensor(2, 12, 4, extent=4, dtype=torch.float64)
    kernel_map = sparseconv.build_kernel_map(x.coords, kernel_size=3, submanifold=True)
    dense = torch.from_numpy(np.random.default_rng(0).standard_normal((9, 2, 34)))
    mask = torch.from_numpy(vector_pattern(dense.numpy(), 2, 0.2, 5))
    packed = pack_vectors(dense, mask, groups=2)
    return x.features, packed, kernel_map
