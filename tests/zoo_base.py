# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What the networks of the zoo share: the register, their inputs, layers in short."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from engine import random_tensor
from torch import Tensor, nn

import sparseconv.nn as snn
from sparseconv import SparseTensor

C = 16


@dataclasses.dataclass(frozen=True)
class Animal:
    """A network, its input, the layers whose output channels must shrink, and those that must stay (name -> reason)."""

    build: Callable[[], nn.Module]
    scan: Callable[[], Any]
    shrinks: tuple[str, ...]
    stays: dict[str, str]


ZOO: dict[str, Animal] = {}


def sites(
    seed: int = 0, channels: int = 4, n: int = 150, batch_size: int = 2, **options: Any
) -> SparseTensor:
    options = {"extent": 7, "dtype": torch.float64, **options}
    return random_tensor(3, n, channels, batch_size=batch_size, seed=seed, **options)


def bounded() -> SparseTensor:
    return sites(spatial_shape=(8, 8, 8))


def cloud() -> Tensor:
    return torch.rand(200, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 4


def animal(
    *shrinks: str, stays: dict[str, str] | None = None, scan: Callable[[], Any] = sites
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    def register(build: type[nn.Module]) -> type[nn.Module]:
        ZOO[build.__name__] = Animal(build, scan, shrinks, stays or {})
        return build

    return register


def create(name: str, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, with random weights of order one everywhere."""
    torch.manual_seed(seed)
    model = ZOO[name].build().double().eval()
    randomize(model)
    return model


def randomize(model: nn.Module) -> None:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                if module.running_mean is not None:
                    module.running_mean.normal_(0, 0.5)
                    module.running_var.uniform_(0.5, 2)
                if module.weight is not None:
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.5)


def conv(i: int, o: int, k: int = 3, **options: Any) -> snn.SubMConv3d:
    return snn.SubMConv3d(i, o, k, **options)


def block(i: int, o: int, k: int = 3, layer: Any = None) -> snn.Sequential:
    return snn.Sequential(conv(i, o, k, bias=False) if layer is None else layer, snn.BatchNorm(o), snn.ReLU())


def down(i: int, o: int) -> snn.Sequential:
    return block(i, o, layer=snn.Conv3d(i, o, 2, stride=2, bias=False))


class Net(nn.Module):
    """Stem and head around what a subclass's `middle` does."""

    wide = C

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(4, C)
        self.parts()
        self.head = conv(self.wide, 5, 1)

    def parts(self) -> None: ...

    def middle(self, x: Any) -> Any:
        return x

    def forward(self, x: Any) -> Any:
        return self.head(self.middle(self.stem(x)))
