# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The layers that are measured, as plain data that every engine builds its own layer from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layer:
    """A convolution without bias; kind "subm", "conv" or "inverse" (back to the sites a "conv" came from)."""

    kind: str
    c_in: int
    c_out: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0
    groups: int = 1

    @property
    def geometry(self) -> str:
        """What its map depends on, in words."""
        if self.kind == "subm":
            return f"SubM k{self.kernel}"
        name = "inverse " if self.kind == "inverse" else ""
        padding = f" p{self.padding}" if self.padding else ""
        return f"{name}k{self.kernel} s{self.stride}{padding}"

    @property
    def label(self) -> str:
        """Geometry and channels."""
        if self.groups > 1:
            return f"{self.geometry} depthwise {self.c_in}"
        return f"{self.geometry} {self.c_in}->{self.c_out}"

    @property
    def taps(self) -> int:
        """Matrices of the weight."""
        return int(self.kernel**3)

    def make_weight(self, seed: int = 1) -> Tensor:
        """float32 [K, C_in / groups, C_out], scaled so that outputs are of order one."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.taps, self.c_in // self.groups, self.c_out)
        weight: Tensor = torch.randn(shape, generator=generator) / (self.taps * shape[1]) ** 0.5
        return weight

    def flops(self, pairs: int) -> float:
        """Of one forward pass: a multiplication and an addition per pair and weight of its tap."""
        return 2.0 * pairs * self.c_in * self.c_out / self.groups

    def least_bytes(self, pairs: int, n_out: int, item: int = 4) -> float:
        """The byte floor of a forward pass: every pair reads its input row, every output row is written once."""
        return float(pairs * self.c_in + n_out * self.c_out) * item


MAP_LAYERS = (Layer("subm", 1, 1), Layer("conv", 1, 1, 2, 2), Layer("conv", 1, 1, 3, 2, 1))


def square_layers(channels: tuple[int, ...]) -> list[Layer]:
    """SubM k3 with equal channels."""
    return [Layer("subm", c, c) for c in channels]


def other_layers(channels: int = 32) -> list[Layer]:
    """Strided, inverse, 1x1, depthwise and unequal channels."""
    return [
        Layer("conv", channels, channels, 2, 2),
        Layer("conv", channels, channels, 3, 2, 1),
        Layer("inverse", channels, channels, 2, 2),
        Layer("subm", channels, channels, 1),
        Layer("subm", channels, channels, 3, groups=channels),
        Layer("subm", 96, 96, 3, groups=96),
        Layer("subm", 4, 32),
        Layer("subm", 32, 64),
        Layer("subm", 96, 32),
    ]
