# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""SemanticKITTI: its folder layout, classes, learning map and splits.

Source: Behley et al., "SemanticKITTI: a dataset for semantic scene understanding of LiDAR sequences" (ICCV
2019). A label file holds one little-endian uint32 a point: the class id in the low 16 bits, the instance in
the high 16 bits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from .read import read_scan
from .scan import Array, Scan

IGNORE = 255  # training id of points without a class
CLASSES = (
    "car", "bicycle", "motorcycle", "truck", "other-vehicle", "person", "bicyclist", "motorcyclist",
    "road", "parking", "sidewalk", "other-ground", "building", "fence", "vegetation", "trunk", "terrain",
    "pole", "traffic-sign",
)  # fmt: skip
COLORS = (
    (100, 150, 245), (100, 230, 245), (30, 60, 150), (80, 30, 180), (100, 80, 250), (255, 30, 30),
    (255, 40, 200), (150, 30, 90), (255, 0, 255), (255, 150, 255), (75, 0, 75), (175, 0, 75),
    (255, 200, 0), (255, 120, 50), (0, 175, 0), (135, 60, 0), (150, 240, 80), (255, 240, 150),
    (255, 0, 0),
)  # fmt: skip
# Raw class id -> training id. Ids from 252 on are moving things; 52 other-structure and 99 other-object have
# no class.
LEARNING_MAP = {
    0: IGNORE, 1: IGNORE, 10: 0, 11: 1, 13: 4, 15: 2, 16: 4, 18: 3, 20: 4, 30: 5, 31: 6, 32: 7, 40: 8,
    44: 9, 48: 10, 49: 11, 50: 12, 51: 13, 52: IGNORE, 60: 8, 70: 14, 71: 15, 72: 16, 80: 17, 81: 18,
    99: IGNORE, 252: 0, 253: 6, 254: 5, 255: 7, 256: 4, 257: 4, 258: 3, 259: 4,
}  # fmt: skip
SPLITS = {
    "train": ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10"),
    "valid": ("08",),
    "test": tuple(f"{i:02d}" for i in range(11, 22)),
}

_UNKNOWN = -1
_TABLE = np.full(1 << 16, _UNKNOWN, np.int64)
_TABLE[list(LEARNING_MAP)] = list(LEARNING_MAP.values())


def to_training_ids(labels: Array) -> Array:
    """Map raw labels (integers `[N]`, instance in the high 16 bits) to training ids int64 `[N]`: 0 to 18, 255
    to ignore.

    Raises `ValueError` for a raw class id that SemanticKITTI does not have.
    """
    ids: Array = _TABLE[labels.astype(np.int64) & 0xFFFF]
    if (ids == _UNKNOWN).any():
        raise ValueError(
            f"expected raw class ids of SemanticKITTI, got {int(labels[ids == _UNKNOWN][0]) & 0xFFFF}"
        )
    return ids


def read_labels(path: str | os.PathLike[str], points: int) -> Array:
    """Read the raw labels uint32 `[points]` of a `.label` file; raises `ValueError` where it has another
    length.
    """
    path = Path(path)
    size = path.stat().st_size
    if size != 4 * points:
        raise ValueError(f"{path}: expected labels of {points} points ({4 * points} bytes), got {size} bytes")
    return np.fromfile(path, dtype="<u4").astype(np.uint32, copy=False)


class SemanticKitti(Dataset[Scan]):
    """Scans of a SemanticKITTI folder, `root/sequences/XX/velodyne/*.bin` with `labels/*.label` beside them.

    split: train, valid or test, or the names of the sequences to take. Scans carry raw uint32 labels where
    the sequence has a `labels` folder. Raises `ValueError` for an unknown split, where no scan is there, or
    (when it is read) a label file of another length than its scan.
    """

    def __init__(self, root: str | os.PathLike[str], split: str | Sequence[str] = "train") -> None:
        if isinstance(split, str) and split not in SPLITS:
            raise ValueError(
                f"split must be one of {', '.join(SPLITS)} or a list of sequences, got {split!r}"
            )
        names = SPLITS[split] if isinstance(split, str) else tuple(split)
        folder = Path(root) / "sequences"
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{root}: expected a SemanticKITTI folder, with sequences/XX/velodyne in it"
            )
        self.scans = [path for name in names for path in sorted((folder / name / "velodyne").glob("*.bin"))]
        if not self.scans:
            raise ValueError(f"{folder}: expected scans in {', '.join(names)} (velodyne/*.bin), found none")

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> Scan:
        path = self.scans[index]
        scan = read_scan(path, columns=4)
        folder = path.parent.parent / "labels"
        if not folder.is_dir():
            return scan
        return scan.replace(labels=read_labels(folder / (path.stem + ".label"), len(scan)))
