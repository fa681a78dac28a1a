# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""One LiDAR or depth scan: its points, what was measured at each of them, and their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Scan:
    """A point cloud: coordinates in metres, named attributes and, where known, a label per point.

    `points` float32 or float64 `[N, 3]`, C-contiguous and finite; `attributes` name -> array `[N]` or `[N,
    k]` (remission, intensity, ring, rgb ...); `labels` integers `[N]` or None; `path` the file it came from.
    Raises `ValueError` where they do not fit together.
    """

    points: Array
    attributes: Mapping[str, Array] = field(default_factory=dict)
    labels: Array | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        where = f"{self.path}: " if self.path else ""
        points = np.asarray(self.points)
        if points.dtype not in (np.float32, np.float64) or points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(
                f"{where}points must be float32 or float64 [N, 3], got {points.dtype} {list(points.shape)}"
            )
        if not np.isfinite(points).all():
            bad = ~np.isfinite(points).all(axis=1)
            row = int(bad.argmax())
            raise ValueError(
                f"{where}points must be finite, got {points[row].tolist()} in row {row} "
                f"({int(bad.sum())} such rows of {len(points)})"
            )
        object.__setattr__(self, "points", np.ascontiguousarray(points))
        for name, values in self.attributes.items():
            if values.ndim not in (1, 2) or len(values) != len(points):
                raise ValueError(
                    f"{where}attribute {name!r} must have one row for each of {len(points)} points, "
                    f"got shape {list(values.shape)}"
                )
        object.__setattr__(self, "attributes", dict(self.attributes))
        if self.labels is not None and (
            self.labels.shape != (len(points),) or self.labels.dtype.kind not in "iu"
        ):
            raise ValueError(
                f"{where}labels must be integers [{len(points)}], got {self.labels.dtype} {list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        names = ", ".join(self.attributes) or "no attributes"
        return f"Scan({len(self)} points, {names}, {'with' if self.labels is not None else 'without'} labels, path={self.path!r})"

    def select(self, rows: Array) -> Scan:
        """Return the scan of the chosen `rows` (bool `[N]` or integers), attributes and labels with them."""
        return replace(
            self,
            points=self.points[rows],
            attributes={name: values[rows] for name, values in self.attributes.items()},
            labels=None if self.labels is None else self.labels[rows],
        )

    def replace(self, **changes: Any) -> Scan:
        """Return a copy with some of `points`, `attributes`, `labels`, `path` exchanged."""
        return replace(self, **changes)


class Scans(Protocol):
    """Scans by their number: a list of them, or any dataset here."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Scan: ...


def scan_from_columns(table: Array, names: Sequence[str], path: Path, *, drop_invalid: bool = False) -> Scan:
    """Make a scan from a table `[N, columns]` whose columns have `names`: x, y, z, then anything.

    Columns r, g, b become the attribute `rgb`, nx, ny, nz `normals`, and the column `label` the labels.
    Columns named `_` are left out.
    """
    order = {name: i for i, name in enumerate(names) if name != "_"}
    if len(order) != sum(name != "_" for name in names):
        raise ValueError(f"{path}: column names must differ, got {', '.join(names)}")
    if table.ndim != 2 or table.shape[1] != len(names):
        raise ValueError(
            f"{path}: expected {len(names)} columns ({', '.join(names)}), got an array of shape {list(table.shape)}"
        )
    if not {"x", "y", "z"} <= set(order):
        raise ValueError(f"{path}: columns must include x, y and z, got {', '.join(names)}")
    points = np.ascontiguousarray(table[:, [order.pop("x"), order.pop("y"), order.pop("z")]])
    attributes: dict[str, Array] = {}
    for group, parts in (("rgb", ("r", "g", "b")), ("normals", ("nx", "ny", "nz"))):
        if set(parts) <= set(order):
            attributes[group] = np.ascontiguousarray(table[:, [order.pop(part) for part in parts]])
    labels = None
    if "label" in order:
        values = table[:, order.pop("label")]
        labels = values.astype(np.int64)
        if not np.array_equal(labels, values):
            raise ValueError(f"{path}: labels must be whole numbers, got {values[labels != values][0]}")
    attributes.update({name: np.ascontiguousarray(table[:, i]) for name, i in order.items()})
    return make_scan(points, attributes, labels, path, drop_invalid=drop_invalid)


def make_scan(
    points: Array, attributes: Mapping[str, Array], labels: Array | None, path: Path, *, drop_invalid: bool
) -> Scan:
    """Make a scan, leaving out the points with a coordinate that is not finite where `drop_invalid` says
    so.
    """
    if drop_invalid:
        keep = np.isfinite(points).all(axis=1)
        if not keep.all():
            points, attributes = points[keep], {name: values[keep] for name, values in attributes.items()}
            labels = None if labels is None else labels[keep]
    return Scan(points, attributes, labels, str(path))
