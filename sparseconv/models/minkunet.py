# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""MinkUNet: a residual U-Net for semantic segmentation, one class score per voxel.

Source: Choy et al., "4D spatio-temporal ConvNets: Minkowski convolutional neural networks" (CVPR 2019).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from .. import nn as snn
from ..joining import cat
from ..tensor import SparseTensor

STEM = 32  # channels of the stem and of the first downsampling
PLANES_18 = (32, 64, 128, 256, 128, 128, 96, 96)  # four levels down, four up
PLANES_34 = (32, 64, 128, 256, 256, 128, 96, 96)


def conv_norm_relu(conv: nn.Module, channels: int) -> snn.Sequential:
    """A convolution, its batch norm and a ReLU."""
    return snn.Sequential(conv, snn.BatchNorm(channels), snn.ReLU())


class BasicBlock(nn.Module):
    """Two 3x3x3 submanifold convolutions beside a shortcut (He et al., "Deep residual learning", 2016)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = snn.Sequential(
            snn.SubMConv3d(in_channels, out_channels, 3, bias=False),
            snn.BatchNorm(out_channels),
            snn.ReLU(),
            snn.SubMConv3d(out_channels, out_channels, 3, bias=False),
            snn.BatchNorm(out_channels),
        )
        self.shortcut: nn.Module = snn.Identity()
        if in_channels != out_channels:  # a 1x1x1 convolution changes the number of channels
            self.shortcut = snn.Sequential(
                snn.SubMConv3d(in_channels, out_channels, 1, bias=False), snn.BatchNorm(out_channels)
            )
        self.relu = snn.ReLU()

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Keep the sites, change the channels."""
        out: SparseTensor = self.body(x)
        out += self.shortcut(x)  # in place: the body ends in a fresh tensor
        return self.relu(out)  # type: ignore[no-any-return]


class DownStage(nn.Module):
    """Halve the resolution with a 2x2x2 convolution of stride 2, then residual blocks."""

    def __init__(self, in_channels: int, out_channels: int, depth: int) -> None:
        super().__init__()
        self.down = conv_norm_relu(snn.Conv3d(in_channels, in_channels, 2, stride=2, bias=False), in_channels)
        self.blocks = _blocks(in_channels, out_channels, depth)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Put out the coarser sites that `x` touches."""
        out: SparseTensor = self.blocks(self.down(x))
        return out


class UpStage(nn.Module):
    """Go back to the sites of `skip`, join its channels, then residual blocks."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, depth: int) -> None:
        super().__init__()
        self.up = snn.InverseConv3d(in_channels, out_channels, 2, stride=2, bias=False)
        self.norm_relu = snn.Sequential(snn.BatchNorm(out_channels), snn.ReLU())
        self.blocks = _blocks(out_channels + skip_channels, out_channels, depth)

    def forward(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        """Put out the sites of `skip`."""
        x = self.norm_relu(self.up(x, skip))  # the sites of skip, and the kernel map of the way down
        out: SparseTensor = self.blocks(cat([x, skip]))
        return out


def _blocks(in_channels: int, out_channels: int, depth: int) -> snn.Sequential:
    widths = [in_channels, *[out_channels] * depth]
    return snn.Sequential(*(BasicBlock(a, b) for a, b in pairwise(widths)))


class MinkUNet(nn.Module):
    """Residual U-Net over four halvings of the resolution; returns the input's sites with class scores as features.

    Args: in_channels, channels of the input; num_classes, channels of the output; depths, residual blocks of the four
    stages down and the four stages up; planes, their channels; width, a factor on all channels (rounded to multiples
    of 8); stem_kernel, the size of the first kernel. Raises ValueError where depths or planes are not eight long.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        depths: Sequence[int],
        planes: Sequence[int],
        *,
        width: float = 1.0,
        stem_kernel: int = 5,
    ) -> None:
        super().__init__()
        if len(depths) != 8 or len(planes) != 8:
            raise ValueError(
                f"MinkUNet: depths and planes must have 8 entries, got {len(depths)} and {len(planes)}"
            )
        stem, *planes = (_scale(c, width) for c in (STEM, *planes))
        self.stem = conv_norm_relu(snn.SubMConv3d(in_channels, stem, stem_kernel, bias=False), stem)
        self.down = nn.ModuleList()
        skips = [stem]
        for channels, depth in zip(planes[:4], depths[:4], strict=True):
            self.down.append(DownStage(skips[-1], channels, depth))
            skips.append(channels)
        self.up = nn.ModuleList()
        current = skips.pop()
        for channels, depth in zip(planes[4:], depths[4:], strict=True):
            self.up.append(UpStage(current, skips.pop(), channels, depth))
            current = channels
        self.classifier = snn.Linear(current, num_classes)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Score every voxel of `x`: features [N, in_channels] become [N, num_classes], rows as they were."""
        x = self.stem(x)
        skips = []
        for stage in self.down:
            skips.append(x)
            x = stage(x)
        for stage in self.up:
            x = stage(x, skips.pop())
        out: SparseTensor = self.classifier(x)
        return out


def _scale(channels: int, width: float) -> int:
    if not 0 < width < math.inf:
        raise ValueError(f"MinkUNet: width must be positive and finite, got {width!r}")
    return max(8, round(channels * width / 8) * 8)


class MinkUNet14(MinkUNet):
    """One block per stage: the smallest of the family."""

    def __init__(self, in_channels: int, num_classes: int, *, width: float = 1.0) -> None:
        super().__init__(in_channels, num_classes, (1,) * 8, PLANES_18, width=width)


class MinkUNet18(MinkUNet):
    """Two blocks per stage: 15.5 million parameters with 4 input channels at width 1."""

    def __init__(self, in_channels: int, num_classes: int, *, width: float = 1.0) -> None:
        super().__init__(in_channels, num_classes, (2,) * 8, PLANES_18, width=width)


class MinkUNet34(MinkUNet):
    """Up to six blocks per stage and a wider decoder."""

    def __init__(self, in_channels: int, num_classes: int, *, width: float = 1.0) -> None:
        super().__init__(in_channels, num_classes, (2, 3, 4, 6, 2, 2, 2, 2), PLANES_34, width=width)
