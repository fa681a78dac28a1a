# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""A plain folder of scans."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch.utils.data import Dataset

from .read import Columns, read_scan
from .scan import Scan
from .semantic_kitti import read_labels

ENDINGS = (".bin", ".npy", ".npz", ".pcd", ".ply", ".xyz")


class ScanFolder(Dataset[Scan]):
    """Every scan in a folder and the folders below it, in the order of their paths.

    pattern: which files to take, by default all with an ending that `read_scan` knows. columns: see
    `read_scan`. labels: a function from the path of a scan to the path of its `.label` file (uint32 a point).
    Raises `NotADirectoryError`, and `ValueError` where there is no scan.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        pattern: str = "*",
        columns: Columns = None,
        labels: Callable[[Path], Path] | None = None,
    ) -> None:
        folder = Path(root)
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder}: expected a folder of scans")
        self.scans = sorted(
            path for path in folder.rglob(pattern) if path.suffix.lower() in ENDINGS and path.is_file()
        )
        if not self.scans:
            raise ValueError(
                f"{folder}: expected scans ({pattern}, ending in {', '.join(ENDINGS)}), found none"
            )
        self._columns, self._labels = columns, labels

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> Scan:
        path = self.scans[index]
        scan = read_scan(path, columns=self._columns)
        return (
            scan if self._labels is None else scan.replace(labels=read_labels(self._labels(path), len(scan)))
        )
