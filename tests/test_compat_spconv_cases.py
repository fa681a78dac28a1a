# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The cases that spconv tests its own layers with (its test/test_conv.py): shapes, channels, kernels, strides, paddings and
dilations, 1,000 rows a sample, on the CPU. References: dense torch, and for coupled layers the oracle in float64.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from torch import Tensor, nn

import sparseconv.compat.spconv as sp

SHAPE, ROWS = [19, 18, 17], 1000
SINGLE = list(itertools.product([1, 2], [32, 48, 64], [2, 3], [1, 2, 3], [0, 1, 2], [1, 2, 3]))
# spconv skips a stride together with a dilation: its GPU kernels have none; so do its cases.
CONV = [case for case in SINGLE if case[3] == 1 or case[5] == 1]
TRANSPOSED = [case for case in CONV if case[3] > 1]


def scan(channels: int, batch: int, shape: list[int], low: float = -1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Features [N, C] with gradient, indices int32 [N, 4], and the same as a dense leaf [B, C, *shape]."""
    rng = np.random.default_rng(484)
    cells = [rng.permutation(int(np.prod(shape)))[:ROWS] for _ in range(batch)]
    indices = np.concatenate(
        [np.stack([np.full(ROWS, b), *np.unravel_index(c, shape)], 1) for b, c in enumerate(cells)]
    )
    features = torch.from_numpy(rng.uniform(low, 1, (len(indices), channels)).astype(np.float32))
    dense = torch.zeros(batch, *shape, channels)
    dense[tuple(torch.from_numpy(indices).t())] = features
    dense = dense.movedim(-1, 1).contiguous().requires_grad_()
    return features.requires_grad_(), torch.from_numpy(indices).int(), dense


def close(got: Any, expected: Any) -> None:
    """Equal to 1e-4 as in spconv's own tests: absolute, and of the largest value where that is above one."""
    error = (got.detach() - expected.detach()).abs().max()
    assert error <= 1e-4 * max(1.0, float(expected.detach().abs().max()))


def compare(layer: nn.Module, dense_layer: Any, c_in: int, batch: int, low: float = -1.0) -> None:
    """The dense output at the sites of the sparse one, zero elsewhere; gradients of the input's rows and of the weight."""
    features, indices, dense = scan(c_in, batch, SHAPE, low)
    out = layer(sp.SparseConvTensor(features, indices, SHAPE, batch))
    expected = dense_layer(dense)
    assert list(expected.shape[2:]) == out.spatial_shape
    made = out.dense()
    close(made, expected)
    grad = torch.from_numpy(
        np.random.default_rng(0).uniform(-0.2, 0.2, out.features.shape).astype(np.float32)
    )
    out.features.backward(grad)
    spread = torch.zeros_like(expected.movedim(1, -1))
    spread[tuple(out.indices.long().t())] = grad
    expected.backward(spread.movedim(-1, 1))
    batch_index, x, y, z = indices.long().t()
    close(features.grad, dense.grad.movedim(1, -1)[batch_index, x, y, z])


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolution(kernel: int, stride: int) -> None:
    for batch, c_out, _, _, padding, dilation in (c for c in CONV if c[2:4] == (kernel, stride)):
        if (c_out, batch) not in ((32, 2), (48, 1), (64, 2)):  # a third of the products, all of the geometry
            continue
        layer = sp.SparseConv3d(
            32, c_out, kernel, stride, padding, dilation, bias=False, algo=sp.ConvAlgo.Native
        )
        reference = nn.Conv3d(32, c_out, kernel, stride, padding, dilation, bias=False)
        with torch.no_grad():
            reference.weight.copy_(layer.weight.movedim(-1, 1))
        compare(layer, reference, 32, batch)
        close(layer.weight.grad.movedim(-1, 1), reference.weight.grad)


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("stride", [2, 3])
def test_transposed_convolution(kernel: int, stride: int) -> None:
    for batch, c_out, _, _, padding, dilation in (c for c in TRANSPOSED if c[2:4] == (kernel, stride)):
        if (c_out, batch) not in ((32, 1), (48, 2)):
            continue
        layer = sp.SparseConvTranspose3d(64, c_out, kernel, stride, padding, dilation, bias=False)
        reference = nn.ConvTranspose3d(64, c_out, kernel, stride, padding, bias=False, dilation=dilation)
        with torch.no_grad():
            reference.weight.copy_(layer.weight.movedim(-1, 0))
        compare(layer, reference, 64, batch)
        close(layer.weight.grad.movedim(-1, 0), reference.weight.grad)


@pytest.mark.parametrize("batch", [1, 2])
def test_max_pooling(batch: int) -> None:
    """On positive features, where the maximum with zero of the missing cells is that of the dense array."""
    compare(sp.SparseMaxPool3d(2, 2, 0, 1), nn.MaxPool3d(2, 2, 0, 1), 64, batch, low=0.1)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("c_out", [32, 48, 64])
def test_coupled_layers(batch: int, c_out: int) -> None:
    """A strided layer and its inverse; the reference that spconv's file imports no more is the oracle's."""
    shape = [20, 20, 20]
    features, indices, _ = scan(64, batch, shape)
    net = sp.SparseSequential(
        sp.SparseConv3d(64, c_out, 2, 2, indice_key="cp0", bias=False),
        sp.SparseInverseConv3d(c_out, 64, 2, indice_key="cp0", bias=False),
    )
    out = net(sp.SparseConvTensor(features, indices, shape, batch))
    assert torch.equal(out.indices, indices)
    rel = oracle.make(3, 2, 2)
    fine = oracle.rows_of(indices.numpy())
    coarse = oracle.output_sites(rel, fine, shape)
    down = oracle.pairs(rel, fine, coarse)
    up = [(tap, o, i) for tap, i, o in down]
    weights = [p.detach().double().flatten(1, 3).permute(1, 2, 0).numpy() for p in net.parameters()]
    x = features.detach().double().numpy()
    hidden = oracle.conv(x, weights[0], None, down, len(coarse))
    close(out.features.double(), torch.from_numpy(oracle.conv(hidden, weights[1], None, up, len(fine))))
    grad = np.random.default_rng(1).uniform(-0.2, 0.2, x.shape)
    out.features.backward(torch.from_numpy(grad).float())
    of_hidden, of_second = oracle.conv_gradients(hidden, weights[1], grad, up)[:2]
    of_input, of_first = oracle.conv_gradients(x, weights[0], of_hidden, down)[:2]
    close(features.grad.double(), torch.from_numpy(of_input))
    for parameter, expected in zip(net.parameters(), (of_first, of_second), strict=True):
        got = parameter.grad.double().flatten(1, 3).permute(1, 2, 0)
        close(got, torch.from_numpy(expected))
