# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Random changes of a scan for training: small objects, called with a scan and the generator that decides.

`Compose([Rotate(), Flip(), Scale(), Jitter(), Drop()])(scan, np.random.default_rng(0))`. Scans come back as
new ones; dtypes stay, and normals turn with the points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .scan import Array, Scan

Transform = Callable[[Scan, np.random.Generator], Scan]


@dataclass(frozen=True)
class Compose:
    """One transform after the other."""

    transforms: Sequence[Transform]

    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """Return the changed scan."""
        for transform in self.transforms:
            scan = transform(scan, rng)
        return scan


@dataclass(frozen=True)
class Rotate:
    """Turn about the z axis by an angle from -`angle` to `angle` radians."""

    angle: float = np.pi

    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """Return the changed scan."""
        a = rng.uniform(-self.angle, self.angle)
        return _linear(scan, np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]))


@dataclass(frozen=True)
class Flip:
    """Mirror x and y, each with `probability`."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_share("Flip", self.probability)

    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """Return the changed scan."""
        signs = np.where(rng.random(2) < self.probability, -1.0, 1.0)
        return _linear(scan, np.diag([*signs, 1.0]))


@dataclass(frozen=True)
class Scale:
    """Multiply all coordinates by one factor from `low` to `high`."""

    low: float = 0.95
    high: float = 1.05

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"Scale: expected 0 < low <= high, got {self.low} and {self.high}")

    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """Return the changed scan."""
        return scan.replace(points=scan.points * scan.points.dtype.type(rng.uniform(self.low, self.high)))


@dataclass(frozen=True)
class Shift:
    """Move the whole scan by normally distributed metres along x, y, z: sensors stand at different
    heights.
    """

    sigma: tuple[float, float, float] = (0.0, 0.0, 0.1)

    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """Return the changed scan."""
        return scan.replace(
            points=scan.points + (rng.standard_normal(3) * self.sigma).astype(scan.points.dtype)
        )


@dataclass(frozen=True)
class Jitter:
    """Move every point by normally distributed metres along each axis, at most `most`."""

    sigma: float = 0.01
    most: float = 0.05

    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """Return the changed scan."""
        noise = rng.standard_normal(scan.points.shape, dtype=np.float32) * np.float32(self.sigma)
        return scan.replace(
            points=scan.points + np.clip(noise, -self.most, self.most).astype(scan.points.dtype)
        )


@dataclass(frozen=True)
class Drop:
    """Leave out up to `share` of the points, each alike."""

    share: float = 0.2

    def __post_init__(self) -> None:
        _check_share("Drop", self.share)

    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """Return the changed scan."""
        return scan.select(rng.random(len(scan)) >= rng.uniform(0, self.share))


@dataclass(frozen=True)
class DropAttribute:
    """With `probability`, set an attribute to zero all over the scan, so that a network learns to do
    without it.
    """

    name: str = "remission"
    probability: float = 0.2

    def __post_init__(self) -> None:
        _check_share("DropAttribute", self.probability)

    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """Return the changed scan."""
        if rng.random() >= self.probability or self.name not in scan.attributes:
            return scan
        return scan.replace(
            attributes={**scan.attributes, self.name: np.zeros_like(scan.attributes[self.name])}
        )


@dataclass(frozen=True)
class ScaleAttribute:
    """Multiply an attribute by one factor from `low` to `high` all over the scan: no two sensors are calibrated
    alike. Whole numbers become float32.
    """

    name: str = "remission"
    low: float = 0.6
    high: float = 1.6

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"ScaleAttribute: expected 0 < low <= high, got {self.low} and {self.high}")

    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """Return the changed scan."""
        factor = np.float32(rng.uniform(self.low, self.high))
        if self.name not in scan.attributes:
            return scan
        return scan.replace(attributes={**scan.attributes, self.name: scan.attributes[self.name] * factor})


@dataclass(frozen=True)
class Crop:
    """Keep the points within `radius` metres of the sensor, seen from above. Nothing random."""

    radius: float

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError(f"Crop: radius must be above 0 m, got {self.radius}")

    def __call__(self, scan: Scan, rng: np.random.Generator) -> Scan:
        """Return the scan without its far points."""
        del rng
        return scan.select(np.square(scan.points[:, :2]).sum(axis=1) <= self.radius**2)


def _linear(scan: Scan, matrix: Array) -> Scan:
    """Apply a rotation or mirror image `[3, 3]` to the points and to their normals."""
    turn = matrix.T.astype(scan.points.dtype)
    attributes = dict(scan.attributes)
    if "normals" in attributes:
        attributes["normals"] = attributes["normals"] @ matrix.T.astype(attributes["normals"].dtype)
    return scan.replace(points=scan.points @ turn, attributes=attributes)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a share from 0 to 1, got {value}")
