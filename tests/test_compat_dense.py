# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The grid of arguments of spconv's own tests (test/test_conv.py), the drop-in's layers beside torch's dense ones: outputs,
gradients of inputs and weights. The pair of a strided and an inverse layer, whose reference is commented out there, stands beside
a dense convolution and its transpose on the input's sites.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseconv.compat.spconv as spconv

SHAPE = [19, 18, 17]
ROWS = 1000  # of each sample
STEPS = [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1)]  # stride and dilation; spconv tests no layer with both


def scan(batch: int, channels: int, shape: list[int], low: float = -1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Features in [low, 1), indices and the dense grid [batch, channels, *shape]."""
    generator = torch.Generator().manual_seed(484)
    cells = torch.cat(
        [torch.randperm(shape[0] * shape[1] * shape[2], generator=generator)[:ROWS] for _ in range(batch)]
    )
    sample = torch.arange(batch).repeat_interleave(ROWS)
    indices = torch.stack([sample, *torch.unravel_index(cells, shape)], 1).int()
    features = low + (1 - low) * torch.rand(len(indices), channels, generator=generator)
    dense = torch.zeros(batch, *shape, channels)
    dense[tuple(indices.long().t())] = features
    return features.requires_grad_(), indices, dense.movedim(-1, 1).contiguous().requires_grad_()


def at(dense: Tensor | None, indices: Tensor) -> Tensor:
    """Rows [n, C] of a dense grid [batch, C, *shape]."""
    assert dense is not None
    return dense.movedim(1, -1)[tuple(indices.long().t())]


def close(a: Tensor | None, b: Tensor | None) -> None:
    assert a is not None and b is not None and a.shape == b.shape
    a, b = a.detach(), b.detach()
    assert float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))


def compare(
    layers: Any, dense_layers: nn.Module, data: tuple[Tensor, Tensor, Tensor], shape: list[int]
) -> None:
    features, indices, dense = data
    out = layers(spconv.SparseConvTensor(features, indices, shape, int(indices[-1, 0]) + 1))
    got, expected = out.dense(), dense_layers(dense)
    close(got, expected)
    grad = torch.linspace(-0.2, 0.2, expected.numel()).view_as(expected)
    occupied = torch.zeros_like(expected[:, :1])
    occupied[(out.indices[:, 0].long(), 0, *out.indices[:, 1:].long().t())] = 1
    # pooling in dense grids has a gradient for the zeros of empty windows too
    (got * grad).sum().backward()
    (expected * grad * occupied).sum().backward()
    close(features.grad, at(dense.grad, indices))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kernel", [2, 3])
def test_convolution(batch: int, kernel: int) -> None:
    for out, padding, (stride, dilation) in itertools.product((32, 48, 64), (0, 1, 2), STEPS):
        arguments = {"stride": stride, "padding": padding, "dilation": dilation, "bias": False}
        layer, dense_layer = (
            spconv.SparseConv3d(32, out, kernel, **arguments),
            nn.Conv3d(32, out, kernel, **arguments),
        )
        with torch.no_grad():
            dense_layer.weight.copy_(layer.weight.permute(0, 4, 1, 2, 3))
        compare(layer, dense_layer, scan(batch, 32, SHAPE), SHAPE)
        close(layer.weight.grad.permute(0, 4, 1, 2, 3), dense_layer.weight.grad)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kernel", [2, 3])
def test_transposed_convolution(batch: int, kernel: int) -> None:
    for out, padding, stride in itertools.product((32, 48, 64), (0, 1, 2), (2, 3)):
        arguments = {"stride": stride, "padding": padding, "bias": False}
        layer = spconv.SparseConvTranspose3d(64, out, kernel, **arguments)
        dense_layer = nn.ConvTranspose3d(64, out, kernel, **arguments)
        with torch.no_grad():
            dense_layer.weight.copy_(layer.weight.permute(4, 0, 1, 2, 3))
        compare(layer, dense_layer, scan(batch, 64, SHAPE), SHAPE)
        close(layer.weight.grad.permute(4, 0, 1, 2, 3), dense_layer.weight.grad)


class DenseCouple(nn.Module):
    """A convolution and its transpose, on the cells that are occupied."""

    def __init__(self, channels: int, out: int, occupied: Tensor) -> None:
        super().__init__()
        self.down = nn.Conv3d(channels, out, 2, stride=2, bias=False)
        self.up = nn.ConvTranspose3d(out, channels, 2, stride=2, bias=False)
        self.occupied = occupied

    def forward(self, x: Tensor) -> Tensor:
        up: Tensor = self.up(self.down(x))
        return up * self.occupied


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("out", [32, 48, 64])
def test_strided_and_inverse_convolution(batch: int, out: int) -> None:
    shape = [20, 20, 20]
    data = scan(batch, 64, shape)
    layers = spconv.SparseSequential(
        spconv.SparseConv3d(64, out, 2, 2, indice_key="cp0", bias=False),
        spconv.SparseInverseConv3d(out, 64, 2, indice_key="cp0", bias=False),
    )
    dense_layers = DenseCouple(64, out, (data[2].detach() != 0).any(1, keepdim=True))
    with torch.no_grad():
        dense_layers.down.weight.copy_(layers[0].weight.permute(0, 4, 1, 2, 3))
        dense_layers.up.weight.copy_(layers[1].weight.permute(4, 0, 1, 2, 3))
    compare(layers, dense_layers, data, shape)
    close(layers[0].weight.grad.permute(0, 4, 1, 2, 3), dense_layers.down.weight.grad)
    close(layers[1].weight.grad.permute(4, 0, 1, 2, 3), dense_layers.up.weight.grad)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("kernel", "padding"), [(2, 0), (2, 1), (3, 0), (3, 1)])
def test_max_pooling_of_positive_features(batch: int, kernel: int, padding: int) -> None:
    for stride, dilation in STEPS:
        layer = spconv.SparseMaxPool3d(kernel, stride, padding, dilation)
        dense_layer = nn.MaxPool3d(kernel, stride, padding, dilation)
        compare(layer, dense_layer, scan(batch, 64, SHAPE, low=0.1), SHAPE)
