# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""VoxelBackbone8x: the sparse encoder of SECOND-style detectors, down to an eighth of the resolution.

Source: Yan et al., "SECOND: sparsely embedded convolutional detection" (Sensors 2018), in the shape that OpenPCDet
trains; the modules carry OpenPCDet's names, so that its checkpoints map key by key.
"""

from torch import Tensor, nn

from .. import nn as snn
from ..tensor import SparseTensor


def _block(conv: nn.Module, channels: int) -> snn.Sequential:
    return snn.Sequential(conv, snn.BatchNorm(channels, eps=1e-3, momentum=0.01), snn.ReLU())


def _submanifold(in_channels: int, out_channels: int) -> snn.Sequential:
    return _block(snn.SubMConv3d(in_channels, out_channels, 3, bias=False), out_channels)


def _stage(in_channels: int, out_channels: int, padding: tuple[int, int, int]) -> snn.Sequential:
    """Halve the resolution, then two submanifold convolutions."""
    return snn.Sequential(
        _block(snn.Conv3d(in_channels, out_channels, 3, stride=2, padding=padding, bias=False), out_channels),
        _submanifold(out_channels, out_channels),
        _submanifold(out_channels, out_channels),
    )


class VoxelBackbone8x(nn.Module):
    """Encode voxels on a bounded grid (axes z, y, x) for a detector.

    `forward` returns the encoded tensor, with 128 channels at strides (16, 8, 8), and the multi-scale features
    x_conv1 .. x_conv4 with 16, 32, 64, 64 channels at strides 1, 2, 4, 8. A grid of (41, 1600, 1408) ends as
    (2, 200, 176). Arg: in_channels, the features of a voxel.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv_input = _submanifold(in_channels, 16)
        self.conv1 = snn.Sequential(_submanifold(16, 16))
        self.conv2 = _stage(16, 32, padding=(1, 1, 1))
        self.conv3 = _stage(32, 64, padding=(1, 1, 1))
        self.conv4 = _stage(64, 64, padding=(0, 1, 1))
        self.conv_out = _block(snn.Conv3d(64, 128, (3, 1, 1), stride=(2, 1, 1), bias=False), 128)

    def forward(self, x: SparseTensor) -> tuple[SparseTensor, dict[str, SparseTensor]]:
        """Encode `x`; raises ValueError where it has no `spatial_shape`, which a detector's dense head needs."""
        if x.spatial_shape is None:
            raise ValueError("VoxelBackbone8x: the input must have a spatial_shape (z, y, x), got None")
        features = {"x_conv1": self.conv1(self.conv_input(x))}
        features["x_conv2"] = self.conv2(features["x_conv1"])
        features["x_conv3"] = self.conv3(features["x_conv2"])
        features["x_conv4"] = self.conv4(features["x_conv3"])
        return self.conv_out(features["x_conv4"]), features


def birds_eye_view(x: SparseTensor) -> Tensor:
    """Stack the height axis of an encoded tensor (axes z, y, x) into the channels: dense [batch, C * z, y, x]."""
    return x.dense().flatten(1, 2)
