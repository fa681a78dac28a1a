# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""MinkUNet18 and VoxelBackbone8x on spconv's public API, module for module as in `sparseconv.models`, so that the state dict
of ours fits after `sparseconv.convert.state_dict_to("spconv", model)`.

`sp` is what implements the API: `spconv.pytorch` of the wheel, or `sparseconv.compat.spconv`.
"""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import nn

from sparseconv.models.minkunet import PLANES_18, STEM

SparseConvTensor = Any  # spconv has no types


def subm(sp: ModuleType, c_in: int, c_out: int, kernel: int, key: str) -> Any:
    """A submanifold convolution that shares its map under `key`."""
    return sp.SubMConv3d(c_in, c_out, kernel, bias=False, indice_key=key, algo=sp.ConvAlgo.Native)


def strided(sp: ModuleType, c_in: int, c_out: int, kernel: Any, stride: Any, padding: Any, key: str) -> Any:
    """A strided convolution whose map an inverse one may use."""
    return sp.SparseConv3d(
        c_in,
        c_out,
        kernel,
        stride=stride,
        padding=padding,
        bias=False,
        indice_key=key,
        algo=sp.ConvAlgo.Native,
    )


def with_norm(sp: ModuleType, conv: Any, channels: int, **norm: Any) -> Any:
    """A convolution, its batch norm and a ReLU."""
    return sp.SparseSequential(conv, nn.BatchNorm1d(channels, **norm), nn.ReLU())


class BasicBlock(nn.Module):
    """Two submanifold convolutions beside a shortcut."""

    def __init__(self, sp: ModuleType, c_in: int, c_out: int, key: str) -> None:
        super().__init__()
        self.body = sp.SparseSequential(
            subm(sp, c_in, c_out, 3, key),
            nn.BatchNorm1d(c_out),
            nn.ReLU(),
            subm(sp, c_out, c_out, 3, key),
            nn.BatchNorm1d(c_out),
        )
        self.shortcut: Any = nn.Identity()
        if c_in != c_out:
            self.shortcut = sp.SparseSequential(subm(sp, c_in, c_out, 1, f"{key} 1x1"), nn.BatchNorm1d(c_out))
        self.relu = nn.ReLU()

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        out = self.body(x)
        return out.replace_feature(self.relu(out.features + self.shortcut(x).features))


def _blocks(sp: ModuleType, c_in: int, c_out: int, depth: int, key: str) -> Any:
    widths = [c_in, *[c_out] * depth]
    return nn.Sequential(*(BasicBlock(sp, a, b, key) for a, b in pairwise(widths)))


class DownStage(nn.Module):
    """Halve the resolution, then residual blocks."""

    def __init__(self, sp: ModuleType, c_in: int, c_out: int, level: int) -> None:
        super().__init__()
        self.down = with_norm(sp, strided(sp, c_in, c_in, 2, 2, 0, f"down {level}"), c_in)
        self.blocks = _blocks(sp, c_in, c_out, 2, f"subm {level}")

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        return self.blocks(self.down(x))


class UpStage(nn.Module):
    """Back to the sites of `skip`, join its channels, then residual blocks."""

    def __init__(self, sp: ModuleType, c_in: int, c_skip: int, c_out: int, level: int) -> None:
        super().__init__()
        self.up = sp.SparseInverseConv3d(
            c_in, c_out, 2, bias=False, indice_key=f"down {level}", algo=sp.ConvAlgo.Native
        )
        self.norm_relu = sp.SparseSequential(nn.BatchNorm1d(c_out), nn.ReLU())
        self.blocks = _blocks(sp, c_out + c_skip, c_out, 2, f"subm {level - 1}")

    def forward(self, x: SparseConvTensor, skip: SparseConvTensor) -> SparseConvTensor:
        x = self.norm_relu(self.up(x))
        return self.blocks(x.replace_feature(torch.cat([x.features, skip.features], 1)))


class MinkUNet18(nn.Module):
    """`sparseconv.models.MinkUNet18` at width 1."""

    def __init__(self, sp: ModuleType, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = with_norm(sp, subm(sp, in_channels, STEM, 5, "stem"), STEM)
        self.down, self.up, skips = nn.ModuleList(), nn.ModuleList(), [STEM]
        for level, channels in enumerate(PLANES_18[:4], start=1):
            self.down.append(DownStage(sp, skips[-1], channels, level))
            skips.append(channels)
        current = skips.pop()
        for level, channels in zip((4, 3, 2, 1), PLANES_18[4:], strict=True):
            self.up.append(UpStage(sp, current, skips.pop(), channels, level))
            current = channels
        self.classifier = nn.Linear(current, num_classes)

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        x = self.stem(x)
        skips = []
        for stage in self.down:
            skips.append(x)
            x = stage(x)
        for stage in self.up:
            x = stage(x, skips.pop())
        return x.replace_feature(self.classifier(x.features))


class VoxelBackbone8x(nn.Module):
    """`sparseconv.models.VoxelBackbone8x`; returns the encoded tensor only."""

    def __init__(self, sp: ModuleType, in_channels: int) -> None:
        super().__init__()
        norm: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01}

        def sub(c_in: int, c_out: int, key: str) -> Any:
            return with_norm(sp, subm(sp, c_in, c_out, 3, key), c_out, **norm)

        def stage(c_in: int, c_out: int, padding: Any, level: int) -> Any:
            return sp.SparseSequential(
                with_norm(sp, strided(sp, c_in, c_out, 3, 2, padding, f"spconv{level}"), c_out, **norm),
                sub(c_out, c_out, f"subm{level}"),
                sub(c_out, c_out, f"subm{level}"),
            )

        self.conv_input = sub(in_channels, 16, "subm1")
        self.conv1 = sp.SparseSequential(sub(16, 16, "subm1"))
        self.conv2 = stage(16, 32, 1, 2)
        self.conv3 = stage(32, 64, 1, 3)
        self.conv4 = stage(64, 64, (0, 1, 1), 4)
        self.conv_out = with_norm(sp, strided(sp, 64, 128, (3, 1, 1), (2, 1, 1), 0, "out"), 128, **norm)

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        x = self.conv1(self.conv_input(x))
        return self.conv_out(self.conv4(self.conv3(self.conv2(x))))
