# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""spconv.utils and spconv.pytorch.utils: voxel generators. Box operations are left out and say so when called."""

from __future__ import annotations

from .left_out import BOXES, left_out
from .voxels import (
    Point2VoxelCPU1d,
    Point2VoxelCPU2d,
    Point2VoxelCPU3d,
    Point2VoxelCPU4d,
    PointToVoxel,
    gather_features_by_pc_voxel_id,
)

__all__ = [
    "Point2VoxelCPU1d",
    "Point2VoxelCPU2d",
    "Point2VoxelCPU3d",
    "Point2VoxelCPU4d",
    "PointToVoxel",
    "gather_features_by_pc_voxel_id",
]


rbbox_iou = left_out("utils.rbbox_iou", BOXES)
rbbox_intersection = left_out("utils.rbbox_intersection", BOXES)
rbbox_iou_loss = left_out("utils.rbbox_iou_loss", BOXES)
non_max_suppression_cpu = left_out("utils.non_max_suppression_cpu", BOXES)
rotate_non_max_suppression_cpu = left_out("utils.rotate_non_max_suppression_cpu", BOXES)
BoxOps = left_out("utils.BoxOps", BOXES)
