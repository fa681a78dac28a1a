# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""spconv.utils and spconv.pytorch.utils: voxel generators. Box operations are left out and say so when called."""

from __future__ import annotations

from typing import Any, NoReturn

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


def _left_out(name: str) -> Any:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(
            f"spconv.utils.{name}: box operations are no part of sparseconv; torchvision.ops and the "
            "detection frameworks have them"
        )

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


rbbox_iou = _left_out("rbbox_iou")
rbbox_intersection = _left_out("rbbox_intersection")
rbbox_iou_loss = _left_out("rbbox_iou_loss")
non_max_suppression_cpu = _left_out("non_max_suppression_cpu")
rotate_non_max_suppression_cpu = _left_out("rotate_non_max_suppression_cpu")
