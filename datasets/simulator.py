# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Labelled LiDAR sweeps without a data set: streets made up from a seed, ray-cast with Open3D.

Labels are the raw class ids of SemanticKITTI, uint32, with the instance in the high 16 bits
(`semantic_kitti.py` has the names and the learning map). The same seed gives the same bits, whatever was
simulated before, on one machine.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .scan import Scan
from .sensor import Caster, SpinningSensor
from .street import Street, make_street

_HDL64E = SpinningSensor()  # one for all, since it keeps its ray directions
_SWEEP = 1  # keeps the random streams of sweeps apart from those of streets


def simulate_scan(
    seed: int, *, sensor: SpinningSensor | None = None, sweep: int = 0, sweeps: int = 1, spacing: float = 6.0
) -> Scan:
    """Return one labelled sweep in a street of its own, about 125,000 points in the sensor's frame (x ahead,
    y left, z up).

    The street depends on `seed`, `sweeps` and `spacing` (metres between its poses), and `sweep` (from 0)
    picks the pose; `SimulatedDataset` takes all sweeps of a street from one mesh, which is twice as fast.
    `scan.attributes` has remission (float32, 0 to 1) and ring (uint8, 0 = highest beam). Raises `ValueError`
    for a negative seed or a sweep out of range, and `ImportError` where Open3D does not load.
    """
    _check(seed, sweep, sweeps, spacing)
    street = make_street(seed, sweeps=sweeps, spacing=spacing)
    return _take(Caster(street.mesh, threads=_threads()), street, sensor or _HDL64E, seed, sweep)


class SimulatedDataset(Dataset[Scan]):
    """`n` sweeps along random streets, `sweeps_per_street` on each: item i is `simulate_scan(seed * 100_000 +
    i // sweeps_per_street, ...)`.

    Items do not depend on the order they are asked for, nor on the number of DataLoader workers; the meshes
    of the last few streets are kept, since making a street takes as long as a sweep. Seeds apart give streets
    apart (for a training and a validation split use two seeds).
    """

    def __init__(
        self,
        n: int,
        seed: int = 0,
        *,
        sweeps_per_street: int = 4,
        spacing: float = 6.0,
        sensor: SpinningSensor | None = None,
    ) -> None:
        if n < 0:
            raise ValueError(f"SimulatedDataset: n must be 0 or more, got {n}")
        _check(seed, 0, sweeps_per_street, spacing)
        self.n, self.seed, self.sweeps_per_street, self.spacing = n, seed, sweeps_per_street, spacing
        self.sensor = sensor or _HDL64E
        self._streets: OrderedDict[int, tuple[int, Street, Caster]] = OrderedDict()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Scan:
        if not -self.n <= index < self.n:
            raise IndexError(f"SimulatedDataset has {self.n} sweeps, got index {index}")
        number, sweep = divmod(index % self.n, self.sweeps_per_street)
        seed = self.seed * 100_000 + number
        street, caster = self._street(seed)
        return _take(caster, street, self.sensor, seed, sweep)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_streets": OrderedDict()}  # meshes belong to Open3D and are made again

    def _street(self, seed: int) -> tuple[Street, Caster]:
        process, street, caster = self._streets.get(seed, (-1, None, None))
        if (
            street is None or caster is None or process != os.getpid()
        ):  # never cast in a mesh that a parent process made
            street = make_street(seed, sweeps=self.sweeps_per_street, spacing=self.spacing)
            caster = Caster(street.mesh, threads=_threads())
            self._streets[seed] = (os.getpid(), street, caster)
            while len(self._streets) > 4:
                self._streets.popitem(last=False)
        self._streets.move_to_end(seed)
        return street, caster


def _take(caster: Caster, street: Street, sensor: SpinningSensor, seed: int, sweep: int) -> Scan:
    return caster.sweep(sensor, street.poses[sweep], np.random.default_rng([_SWEEP, seed, sweep])).replace(
        path=f"simulated/{seed}/{sweep}"
    )


def _threads() -> int:
    """One thread in a DataLoader worker, all of them elsewhere (0)."""
    return 1 if torch.utils.data.get_worker_info() is not None else 0


def _check(seed: int, sweep: int, sweeps: int, spacing: float) -> None:
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    if not 0 <= sweep < sweeps:
        raise ValueError(f"sweep must be in [0, {sweeps}) for a street of {sweeps} sweeps, got {sweep}")
    if not 0 <= (sweeps - 1) * spacing <= 200 or spacing <= 0:
        raise ValueError(f"the poses of a street must span 0 to 200 m, got {sweeps} sweeps {spacing} m apart")
