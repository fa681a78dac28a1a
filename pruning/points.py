# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of low importance skip a layer's work (Liu et al., "Spatial pruned sparse convolution", NeurIPS 2022).

The skipped rows' pairs are really absent from the map that the layer computes over; these rows keep their features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import KernelMap, SparseTensor, functional
from .. import nn as snn


@dataclass(frozen=True)
class Points:
    """Rows of submanifold layers with as many input as output channels; chosen in every pass by the mean of |x| over channels."""


class _SkipsPoints:
    """What a submanifold layer becomes: its own forward for the most important rows of every sample, the input for the rest."""

    skip_ratio: float

    def forward(self, x: SparseTensor, target: SparseTensor | None = None) -> SparseTensor:
        """Convolve all but the share `skip_ratio` of each sample's rows."""
        if self.skip_ratio == 0 or target is not None or not isinstance(x, SparseTensor):
            out: SparseTensor = super().forward(x, target)  # type: ignore[misc]
            return out
        layer: Any = self
        works = important_rows(x, self.skip_ratio)
        part = restrict(layer.kernel_map(x), works)
        rows = functional.conv(
            x.features, layer.weight, layer.bias, part, groups=layer.groups, name=type(layer).__name__
        )
        features = x.features.to(rows.dtype).index_put((works.nonzero()[:, 0],), rows)
        return x.replace(features)

    def extra_repr(self) -> str:
        """Say the share that is skipped too."""
        return f"{super().extra_repr()}, skips {self.skip_ratio:g} of the rows"  # type: ignore[misc]


class PointsSubMConv1d(_SkipsPoints, snn.SubMConv1d):
    """A `SubMConv1d` that skips rows."""


class PointsSubMConv2d(_SkipsPoints, snn.SubMConv2d):
    """A `SubMConv2d` that skips rows."""


class PointsSubMConv3d(_SkipsPoints, snn.SubMConv3d):
    """A `SubMConv3d` that skips rows."""


class PointsSubMConv4d(_SkipsPoints, snn.SubMConv4d):
    """A `SubMConv4d` that skips rows."""


_CLASSES = {
    snn.SubMConv1d: PointsSubMConv1d,
    snn.SubMConv2d: PointsSubMConv2d,
    snn.SubMConv3d: PointsSubMConv3d,
    snn.SubMConv4d: PointsSubMConv4d,
}


def can_skip(layer: object) -> bool:
    """Whether a layer is of a kind whose rows can be skipped."""
    return type(layer) in _CLASSES or isinstance(layer, _SkipsPoints)


def important_rows(x: SparseTensor, ratio: float) -> Tensor:
    """bool [N]: all rows but the `round(ratio * n)` with the lowest mean of |x| of each sample; of equal ones the last go."""
    importance = x.features.detach().abs().mean(dim=1)
    works = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for sample in range(x.batch_size):
        rows = (
            (x.coords[:, 0] == sample).nonzero()[:, 0]
            if x.batch_size > 1
            else torch.arange(len(x), device=x.device)
        )
        order = torch.argsort(importance[rows], stable=True, descending=True)
        works[rows[order[len(rows) - round(ratio * len(rows)) :]]] = False
    return works


def restrict(kernel_map: KernelMap, works: Tensor) -> KernelMap:
    """The part of a map that computes the output rows where `works` (bool [n_out]), which get consecutive numbers."""
    number = works.cumsum(0, dtype=torch.int32) - 1
    stays = works[kernel_map.pairs[:, 1]]
    pairs = kernel_map.pairs[stays]
    pairs[:, 1] = number[pairs[:, 1]]
    kept = torch.cat([stays.new_zeros(1, dtype=torch.int64), stays.cumsum(0)])
    out_coords = kernel_map.out_coords[works].contiguous()
    # Part of a map that is right is right: nothing is checked again in every pass.
    return KernelMap.trusted(pairs, kept[kernel_map.tap_offsets], kernel_map.in_coords, out_coords, False)


def skip_points(model: nn.Module, ratios: Mapping[str, float]) -> None:
    """Makes layers skip rows, in place; names and parameters stay."""
    layers = dict(model.named_modules())
    for name, ratio in ratios.items():
        layer: Any = layers.get(name)
        if type(layer) in _CLASSES:
            object.__setattr__(layer, "__class__", _CLASSES[type(layer)])
        elif not isinstance(layer, _SkipsPoints):
            raise ValueError(f"{name}: only submanifold layers can skip rows, got {type(layer).__name__}")
        if layer.in_channels != layer.out_channels:
            raise ValueError(
                f"{name}: a row that is skipped keeps its channels, so they must be equal, got {layer.in_channels} and "
                f"{layer.out_channels}"
            )
        layer.skip_ratio = ratio
