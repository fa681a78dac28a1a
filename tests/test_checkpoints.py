# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Layers with converted weights compute what the other engine's own rule says, written out as loops over its offsets."""

from __future__ import annotations

import math

import pytest
import torch
from test_convert import minkowski_order, torchsparse_order
from torch import Tensor, nn

import sparseconv
import sparseconv.nn as spnn
from sparseconv import convert

# How each engine lists the taps, and the anchor with which our layers place the kernel as it does.
RULES = {
    "torchsparse": (torchsparse_order, "torch"),
    "torchsparse_1.4": (torchsparse_order, "torch"),
    "minkowski": (minkowski_order, "minkowski"),
}
KERNELS = [(2, 2, 2), (3, 3, 3), (4, 4, 4), (5, 5, 5), (3, 3, 2), (3, 1, 3), (1, 1, 2), (4, 3, 2), (1, 1, 1)]


def cloud() -> tuple[Tensor, Tensor]:
    coords = torch.unique(torch.randint(-4, 5, (150, 3)), dim=0)
    return torch.cat([torch.zeros(len(coords), 1), coords], 1).int(), torch.randn(
        len(coords), 4, dtype=torch.float64
    )


def their_kernel(layout: str, kernel: tuple[int, ...]) -> Tensor:
    volume = math.prod(kernel)
    return torch.randn(*(() if volume == 1 else (volume,)), 4, 5, dtype=torch.float64)


@pytest.mark.parametrize("layout", RULES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_stride_one_by_their_offsets(layout: str, kernel: tuple[int, ...]) -> None:
    """out[u] = sum over i of W[i]^T x[u + offset(i)], offsets in the engine's order."""
    order, anchor = RULES[layout]
    coords, features = cloud()
    rows = {tuple(c): i for i, c in enumerate(coords[:, 1:].tolist())}
    weight = their_kernel(layout, kernel)
    state = {"0.kernel": weight, "0.bias": torch.randn(5, dtype=torch.float64)}
    if layout == "minkowski":
        state["0.bias"] = state["0.bias"][None]
    want = state["0.bias"].reshape(-1).repeat(len(coords), 1)
    for matrix, offset in zip(weight.reshape(-1, 4, 5), order(kernel), strict=True):
        for cell, row in rows.items():
            source = rows.get(tuple(c + o for c, o in zip(cell, offset, strict=True)))
            if source is not None:
                want[row] += features[source] @ matrix
    ours = nn.Sequential(spnn.SubMConv3d(4, 5, kernel, anchor=anchor, dtype=torch.float64))
    ours.load_state_dict(convert.state_dict_from(layout, state, ours))
    got = ours(sparseconv.SparseTensor(features, coords)).features
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    back = convert.state_dict_to(layout, ours)
    assert set(back) == set(state) and all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("layout", RULES)
def test_down_and_up_by_their_offsets(layout: str) -> None:
    """The pair that every MinkUNet has, k = 2 and stride 2: sites are floors, and up reads the down map backwards."""
    order, _ = RULES[layout]
    coords, features = cloud()
    offsets = order((2, 2, 2))
    down, up = torch.randn(8, 4, 5, dtype=torch.float64), torch.randn(8, 5, 4, dtype=torch.float64)
    coarse: dict[tuple[int, ...], Tensor] = {}
    fine = coords[:, 1:].tolist()

    def tap(cell: list[int]) -> int:
        return offsets.index(tuple(c % 2 for c in cell))

    for cell, x in zip(fine, features, strict=True):
        key = tuple(c // 2 for c in cell)
        coarse[key] = coarse.get(key, torch.zeros(5, dtype=torch.float64)) + x @ down[tap(cell)]
    want = torch.stack([coarse[tuple(c // 2 for c in cell)] @ up[tap(cell)] for cell in fine])
    ours = nn.ModuleDict(
        {
            "down": spnn.Conv3d(4, 5, 2, stride=2, bias=False, dtype=torch.float64),
            "up": spnn.InverseConv3d(5, 4, 2, stride=2, bias=False, dtype=torch.float64),
        }
    )
    state = {"down.kernel": down, "up.kernel": up}
    ours.load_state_dict(convert.state_dict_from(layout, state, ours))
    x = sparseconv.SparseTensor(features, coords)
    got = ours["up"](ours["down"](x), x).features
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    back = convert.state_dict_to(layout, ours)
    assert set(back) == set(state) and all(torch.equal(back[key], state[key]) for key in state)
