# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The same weights on the same real scan as spconv 2.3.8 (CPU wheel): outputs and gradients.

spconv is right with one thread only (its parallel scatter-add shares pointers between threads), and its backward asks
for a CUDA stream, so where there is no driver that one function is replaced.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine import real_points

import sparseconv
import sparseconv.nn as spnn

try:
    import spconv.pytorch as spconv
    import spconv.pytorch.ops as spconv_ops
except ImportError as error:  # its wheel exists for some systems only
    pytest.skip(f"spconv is not installed: {error}", allow_module_level=True)

ATOL = (
    1e-4  # of the largest value: float32, another order of summation, up to 50,000 terms in a weight gradient
)


@pytest.fixture(autouse=True)
def _one_thread_and_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        monkeypatch.setattr(spconv_ops, "get_current_stream", lambda: 0)


@pytest.fixture(scope="module")
def scan() -> tuple[torch.Tensor, tuple[int, ...]]:
    """Coordinates [N, 4] in first-come order and the shape of a 20 m crop of a street at 0.1 m."""
    points = real_points("kitti_odometry_00_000000.bin")
    points = points[(np.abs(points[:, :2]) < 20).all(1)]
    cells = np.floor((points - points.min(0)) / 0.1).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    cells = cells[np.sort(first)]
    coords = np.concatenate([np.zeros((len(cells), 1)), cells], 1).astype(np.int32)
    return torch.from_numpy(coords), tuple(int(n) for n in cells.max(0) + 1)


def run_both(
    scan: tuple[torch.Tensor, tuple[int, ...]],
    theirs: list[torch.nn.Module],
    ours: list[torch.nn.Module],
    c_in: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs (as dense-comparable rows) and gradients of a chain of layers; ours gets spconv's weights."""
    coords, shape = scan
    features = torch.randn(len(coords), c_in)
    results = []
    for weighted, mine in zip(theirs, ours, strict=True):
        weight = weighted.weight.detach()  # [C_out, k, k, k, C_in]
        with torch.no_grad():
            mine.weight.copy_(weight.permute(1, 2, 3, 4, 0).reshape(-1, weight.shape[4], weight.shape[0]))
            mine.bias.copy_(weighted.bias)
    generator = torch.Generator().manual_seed(1)
    order = None
    for name in ("theirs", "ours"):
        f = features.clone().requires_grad_()
        if name == "theirs":
            y = spconv.SparseConvTensor(f, coords, list(shape), 1)
            for layer in theirs:
                y = layer(y)
            out, sites, layers = y.features, y.indices, theirs
        else:
            x = y = sparseconv.SparseTensor(f, coords, spatial_shape=shape)
            for layer in ours:
                y = layer(y, x) if isinstance(layer, spnn.InverseConv3d) else layer(y)
            out, sites, layers = y.features, y.coords, ours
        rank = np.lexsort(sites.numpy().T[::-1])
        out = out[torch.from_numpy(rank)]
        order = torch.randn(out.shape, generator=generator) if order is None else order
        out.backward(order)
        results.append(
            {
                "coords": sites[torch.from_numpy(rank)],
                "features": out.detach(),
                "grad_x": f.grad,
                "grad_w": [layer.weight.grad for layer in layers],
                "grad_b": [layer.bias.grad for layer in layers],
            }
        )
    return results[0], results[1]


def near(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.shape == expected.shape
    worst = float((got - expected).abs().max())
    assert worst <= ATOL * max(1.0, float(expected.abs().max())), f"differs by {worst}"


def compare(scan: Any, theirs: list[torch.nn.Module], ours: list[torch.nn.Module], c_in: int) -> None:
    a, b = run_both(scan, theirs, ours, c_in)
    assert torch.equal(a["coords"], b["coords"])
    near(b["features"], a["features"])
    near(b["grad_x"], a["grad_x"])
    for theirs_w, ours_w in zip(a["grad_w"], b["grad_w"], strict=True):
        near(ours_w, theirs_w.permute(1, 2, 3, 4, 0).reshape(ours_w.shape))
    for theirs_b, ours_b in zip(a["grad_b"], b["grad_b"], strict=True):
        near(ours_b, theirs_b)


def native(layer: type, *args: int, **options: Any) -> torch.nn.Module:
    return layer(*args, algo=spconv.ConvAlgo.Native, **options)


@pytest.mark.parametrize("kernel", [3, 5])
def test_submanifold(scan: Any, kernel: int) -> None:
    theirs = native(spconv.SubMConv3d, 16, 24, kernel, indice_key="a")
    compare(scan, [theirs], [spnn.SubMConv3d(16, 24, kernel)], 16)


def test_strided(scan: Any) -> None:
    theirs = native(spconv.SparseConv3d, 16, 24, 3, stride=2, padding=1)
    compare(scan, [theirs], [spnn.Conv3d(16, 24, 3, stride=2, padding=1)], 16)


def test_inverse(scan: Any) -> None:
    theirs = [
        native(spconv.SparseConv3d, 16, 24, 3, stride=2, padding=1, indice_key="down"),
        native(spconv.SparseInverseConv3d, 24, 8, 3, indice_key="down"),
    ]
    ours = [
        spnn.Conv3d(16, 24, 3, stride=2, padding=1),
        spnn.InverseConv3d(24, 8, 3, stride=2, padding=1),
    ]
    compare(scan, theirs, ours, 16)


def test_one_by_one_reads_the_flat_buffer_the_other_way(scan: Any) -> None:
    """spconv's volume-1 layers use their buffer as [C_in, C_out], whatever the shape says (``convert`` knows this)."""
    coords, shape = scan
    layer = native(spconv.SubMConv3d, 8, 8, 1, indice_key="b")
    x = torch.randn(len(coords), 8)
    out = layer(spconv.SparseConvTensor(x, coords, list(shape), 1)).features
    near(x @ layer.weight.detach().reshape(8, 8) + layer.bias, out)
    ours = spnn.SubMConv3d(8, 8, 1)
    with torch.no_grad():
        ours.weight.copy_(layer.weight.reshape(1, 8, 8))
        ours.bias.copy_(layer.bias)
    near(ours(sparseconv.SparseTensor(x, coords, spatial_shape=shape)).features, out)


def test_the_comparison_can_fail(scan: Any) -> None:
    theirs = native(spconv.SubMConv3d, 4, 4, 3, indice_key="a")
    with pytest.raises(AssertionError):
        compare(scan, [theirs], [spnn.SubMConv3d(4, 4, 3, dilation=2)], 4)
