# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Networks built from the public layers, short enough to read as examples of them."""

from .minkunet import MinkUNet, MinkUNet14, MinkUNet18, MinkUNet34
from .voxel_backbone import VoxelBackbone8x, birds_eye_view

__all__ = ["MinkUNet", "MinkUNet14", "MinkUNet18", "MinkUNet34", "VoxelBackbone8x", "birds_eye_view"]
