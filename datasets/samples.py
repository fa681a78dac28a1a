# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""From scans to what a network takes: features per point, and batches of voxels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .. import SparseTensor, voxelize
from .augment import Transform
from .scan import Array, Scan, Scans
from .semantic_kitti import IGNORE

Sample = Mapping[str, Tensor]
FEATURES = ("one", "z", "range", "remission")
_REMISSIONS = ("remission", "intensity", "reflectivity")


def point_features(scan: Scan, names: Sequence[str] = FEATURES) -> Tensor:
    """Return float32 `[N, len(names)]` of the named features of each point.

    `one`; `x`, `y`, `z` in tens of metres; `range`, the distance from the sensor seen from above, in tens of
    metres; `remission`, from 0 to 1: remission, intensity or reflectivity of the scan, divided by 255 where
    it goes beyond 1 (sensors that count in bytes), 0 where the scan has none; any other name is an attribute
    of the scan, as it is. Raises `ValueError` for a name that is none of these.
    """
    columns = []
    for name in names:
        values = _feature(scan, name)
        column = torch.from_numpy(np.ascontiguousarray(values, np.float32))
        columns.append(column[:, None] if column.ndim == 1 else column)
    return torch.cat(columns, dim=1) if columns else torch.empty(len(scan), 0)


def _feature(scan: Scan, name: str) -> Array:
    if name == "one":
        return np.ones(len(scan), np.float32)
    if name in ("x", "y", "z"):
        values: Array = scan.points[:, "xyz".index(name)] / 10
        return values
    if name == "range":
        distance: Array = np.hypot(scan.points[:, 0], scan.points[:, 1]) / 10
        return distance
    if name == "remission":
        found = next((scan.attributes[key] for key in _REMISSIONS if key in scan.attributes), None)
        if found is None:
            return np.zeros(len(scan), np.float32)
        return found / np.float32(255) if len(found) and found.max() > 1 else found
    if name not in scan.attributes:
        raise ValueError(
            f"feature {name!r} must be one, x, y, z, range, remission or an attribute ({', '.join(scan.attributes)})"
        )
    return scan.attributes[name]


class Samples(Dataset[Sample]):
    """A dataset of scans as samples: `points` `[N, 3]`, `features` float32 `[N, C]` and, where the scans have
    labels, `labels` int64 `[N]`.

    transform: called with the scan and a generator that depends on (seed, epoch, index) alone, so that an
    epoch is the same with any number of workers and after a resume; `set_epoch` before each epoch. label_map:
    from raw labels to those of the samples, such as `to_training_ids`.
    """

    def __init__(
        self,
        scans: Scans,
        *,
        features: Sequence[str] = FEATURES,
        transform: Transform | None = None,
        label_map: Callable[[Array], Array] | None = None,
        seed: int = 0,
    ) -> None:
        self.scans, self.features, self.transform, self.label_map = (
            scans,
            tuple(features),
            transform,
            label_map,
        )
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose random changes the next items get."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> Sample:
        scan = self.scans[index]
        if self.transform is not None:
            scan = self.transform(scan, np.random.default_rng([self.seed, self.epoch, index]))
        return make_sample(scan, features=self.features, label_map=self.label_map)


def make_sample(
    scan: Scan, *, features: Sequence[str] = FEATURES, label_map: Callable[[Array], Array] | None = None
) -> Sample:
    """Turn one scan into a sample; see `Samples`."""
    sample = {"points": torch.from_numpy(scan.points), "features": point_features(scan, features)}
    if scan.labels is not None:
        labels = scan.labels if label_map is None else label_map(scan.labels)
        sample["labels"] = torch.from_numpy(labels.astype(np.int64))
    return sample


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples as one sparse tensor, with the way back to their points.

    `tensor` mean features of the voxels; `index` int64 `[P]`, the row of each point's voxel; `labels` int64
    `[P]` or None; `counts`, the number of points of each sample, in order.
    """

    tensor: SparseTensor
    index: Tensor
    labels: Tensor | None
    counts: tuple[int, ...]

    def to(self, device: torch.device | str, **options: Any) -> Batch:
        """Return the batch on another device."""
        labels = None if self.labels is None else self.labels.to(device, **options)
        return Batch(self.tensor.to(device, **options), self.index.to(device, **options), labels, self.counts)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory (called by a `DataLoader` with `pin_memory=True`)."""
        labels = None if self.labels is None else self.labels.pin_memory()
        return Batch(self.tensor.pin_memory(), self.index.pin_memory(), labels, self.counts)

    def voxel_labels(self, num_classes: int, *, ignore: int = IGNORE) -> Tensor:
        """Return int64 `[rows]`: the label most points of a voxel have (the lowest of ties), `ignore`
        where none has one below `num_classes`.
        """
        if self.labels is None:
            raise ValueError("voxel_labels: the batch has no labels")
        rows = len(self.tensor.coords)
        known = (self.labels >= 0) & (self.labels < num_classes)
        votes = torch.bincount(
            self.index[known] * num_classes + self.labels[known], minlength=rows * num_classes
        )
        most, winner = votes.view(rows, num_classes).max(dim=1)
        return torch.where(most > 0, winner, torch.full_like(winner, ignore))


def collate_scans(samples: Sequence[Sample | Scan], *, voxel_size: float | Sequence[float]) -> Batch:
    """Voxelize samples (or scans) into one batch: the `collate_fn` of a `DataLoader`, run in its workers.

    voxel_size: metres, one number or one per axis; give it with `functools.partial(collate_scans,
    voxel_size=0.1)`. Voxels count from the sensor (origin 0). Raises `ValueError` where only some samples
    have labels.
    """
    if not samples:
        raise ValueError("collate_scans: expected at least one sample, got none")
    made = [make_sample(sample) if isinstance(sample, Scan) else sample for sample in samples]
    if len({"labels" in sample for sample in made}) > 1:
        raise ValueError(
            "collate_scans: all samples must have labels, or none; got some with and some without"
        )
    counts = tuple(len(sample["points"]) for sample in made)
    tensor, index = voxelize(
        torch.cat([sample["points"] for sample in made]),
        torch.cat([sample["features"] for sample in made]),
        voxel_size=voxel_size,
        batch=torch.repeat_interleave(torch.arange(len(made)), torch.tensor(counts)),
        batch_size=len(made),
    )
    labels = torch.cat([sample["labels"] for sample in made]) if "labels" in made[0] else None
    return Batch(tensor, index, labels, counts)
