# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Small networks and scans for the tests of pruning, and inputs gathered by loops over coordinates."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn as nn

import sparseconv
import sparseconv.nn as spnn
from sparseconv import pruning


def scan(seed: int = 0, rows: int = 200, channels: int = 4, extent: int = 7) -> sparseconv.SparseTensor:
    """Random float64 features at random cells of a cube."""
    random = np.random.default_rng(seed)
    cells = np.sort(random.choice(extent**3, rows, replace=False))
    coords = np.stack([0 * cells, cells // extent**2, cells // extent % extent, cells % extent], axis=1)
    features = torch.from_numpy(random.standard_normal((rows, channels)))
    return sparseconv.SparseTensor(features, torch.from_numpy(coords.astype(np.int32)))


def context(
    model: nn.Module, scans: Sequence[object], loss: Callable[..., torch.Tensor] | None = None
) -> pruning.Context:
    return pruning.Context(model, scans, pruning.analyze(model, scans), loss)


def gathered(
    x: sparseconv.SparseTensor, out: torch.Tensor, kernel: int, stride: int = 1, padding: int | None = None
) -> np.ndarray:
    """The inputs under each tap of each output site: [n_out, K * C], zero where there is no voxel."""
    padding = (kernel - 1) // 2 if padding is None else padding
    rows = {tuple(c): i for i, c in enumerate(x.coords.tolist())}
    features = x.features.detach().numpy()
    taps = list(itertools.product(range(kernel), repeat=3))
    result = np.zeros((len(out), len(taps), features.shape[1]))
    for o, (batch, *cell) in enumerate(out.tolist()):
        for t, tap in enumerate(taps):
            place = (batch, *(c * stride - padding + k for c, k in zip(cell, tap, strict=True)))
            if place in rows:
                result[o, t] = features[rows[place]]
    return result.reshape(len(out), -1)


def chain(channels: int = 4, middle: int = 6, out: int = 4) -> nn.Module:
    """Submanifold, strided, submanifold and linear layers with norms between them, in float64, as after training."""
    torch.manual_seed(1)
    net = spnn.Sequential(
        spnn.SubMConv3d(channels, middle, 3),
        spnn.BatchNorm(middle),
        spnn.ReLU(),
        spnn.Conv3d(middle, 8, 2, stride=2),
        spnn.BatchNorm(8),
        spnn.ReLU(),
        spnn.SubMConv3d(8, 8, 3, bias=False),
        spnn.BatchNorm(8),
        spnn.ReLU(),
        spnn.Linear(8, out),
    ).double()
    for module in net:
        if isinstance(module, nn.BatchNorm1d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


class Residual(nn.Module):
    """stem, then x + conv(x), then a head: the channels of the middle layer's inputs and outputs are the same units."""

    def __init__(self, channels: int = 5) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem = spnn.SubMConv3d(4, channels, 3, bias=False)
        self.conv = spnn.SubMConv3d(channels, channels, 3, bias=False)
        self.head = spnn.Linear(channels, 2, bias=False)
        self.double()

    def forward(self, x: sparseconv.SparseTensor) -> sparseconv.SparseTensor:
        x = self.stem(x)
        return self.head(x + self.conv(x))


def without(model: nn.Module, units: pruning.Units, number: int, share: float = 1.0) -> nn.Module:
    """A copy of a model with the weights of one unit shrunk by `share`, written with plain indexing."""
    smaller = copy.deepcopy(model)
    touched = {
        m.tensor: torch.zeros(smaller.get_parameter(m.tensor).shape, dtype=torch.bool)
        for m in units.members
        if m.scored
    }
    for member in units.members:
        if member.scored:
            if member.axis is None:
                touched[member.tensor] |= (member.unit == number).expand(touched[member.tensor].shape)
            else:
                positions = (member.unit == number).nonzero()[:, 0]
                touched[member.tensor].index_fill_(member.axis, positions, True)
    with torch.no_grad():
        for name, mask in touched.items():
            parameter = smaller.get_parameter(name)
            parameter[mask] = parameter[mask] * (1 - share)
    return smaller
