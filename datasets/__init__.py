# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Scans from files, folders and a simulator, and what makes training batches of them. Open3D is imported
on first use.
"""

from . import semantic_kitti
from .augment import (
    Compose,
    Crop,
    Drop,
    DropAttribute,
    Flip,
    Jitter,
    Rotate,
    Scale,
    ScaleAttribute,
    Shift,
    Transform,
)
from .folder import ScanFolder
from .read import read_scan
from .samples import FEATURES, Batch, Samples, collate_scans, make_sample, point_features
from .scan import Scan, Scans
from .semantic_kitti import CLASSES, COLORS, IGNORE, LEARNING_MAP, SemanticKitti, read_labels, to_training_ids
from .sensor import SpinningSensor
from .simulator import SimulatedDataset, simulate_scan

__all__ = [
    "CLASSES",
    "COLORS",
    "FEATURES",
    "IGNORE",
    "LEARNING_MAP",
    "Batch",
    "Compose",
    "Crop",
    "Drop",
    "DropAttribute",
    "Flip",
    "Jitter",
    "Rotate",
    "Samples",
    "Scale",
    "ScaleAttribute",
    "Scan",
    "ScanFolder",
    "Scans",
    "SemanticKitti",
    "Shift",
    "SimulatedDataset",
    "SpinningSensor",
    "Transform",
    "collate_scans",
    "make_sample",
    "point_features",
    "read_labels",
    "read_scan",
    "semantic_kitti",
    "simulate_scan",
    "to_training_ids",
]
