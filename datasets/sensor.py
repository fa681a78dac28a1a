# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""A spinning LiDAR with 64 beams: where its rays go, and what it reports of what they hit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ._open3d import import_open3d
from .scan import Array, Scan
from .shapes import Mesh

_BLOCK = 16384  # rays handled at a time: their arrays stay in the cache
_ROUGH = np.float32(0.05)  # added to every cosine of incidence: rough surfaces never go black
_NEAREST = 0.9  # metres, the blind zone


@dataclass(frozen=True)
class SpinningSensor:
    """A Velodyne HDL-64E: two blocks of 32 beams, from +2 to -8.33 degrees in steps of 1/3 and from -8.83 to
    -24.33 in steps of 1/2.

    `azimuths` firings a turn (2083 at 10 Hz), `height` of the head above the road and `max_range` in metres,
    `noise` standard deviation of a range in metres, `faint` the received power below which a return is lost
    more often than not (1 = a white wall at 10 m, head on).
    """

    azimuths: int = 2083
    height: float = 1.73
    max_range: float = 120.0
    noise: float = 0.015
    faint: float = 6e-4

    @cached_property
    def elevations(self) -> Array:
        """Elevation of each beam `[64]` in radians, highest first."""
        upper, lower = 2.0 - np.arange(32) / 3.0, -8.83 - np.arange(32) / 2.0
        elevations: Array = np.deg2rad(np.concatenate([upper, lower]))
        return elevations

    @cached_property
    def directions(self) -> Array:
        """Unit vectors of all rays `[64 * azimuths, 3]` float32, beam by beam; a beam's laser sits a
        little off the others in azimuth.
        """
        offsets = np.deg2rad(np.where(np.arange(64) % 2, 1.6, -1.6) + np.linspace(-0.4, 0.4, 64))
        azimuth = np.arange(self.azimuths) * (-2 * np.pi / self.azimuths) + offsets[:, None]
        e = self.elevations[:, None]
        rays = np.stack(
            [
                np.cos(e) * np.cos(azimuth),
                np.cos(e) * np.sin(azimuth),
                np.broadcast_to(np.sin(e), azimuth.shape),
            ],
            axis=-1,
        )
        return rays.reshape(-1, 3).astype(np.float32)


class Caster:
    """A street's mesh made ready for ray casting (Open3D's RaycastingScene, Embree)."""

    def __init__(self, mesh: Mesh, *, threads: int = 0) -> None:
        self._o3d: Any = import_open3d()
        self._mesh, self._threads = mesh, threads
        self._through = np.ascontiguousarray(mesh.surface[:, 2])
        self._scene = self._o3d.t.geometry.RaycastingScene(nthreads=threads)
        self._scene.add_triangles(self._o3d.core.Tensor(mesh.vertices), self._o3d.core.Tensor(mesh.triangles))

    def cast(self, rays: Array) -> tuple[Array, Array, Array]:
        """Return distance `[n]`, triangle `[n]` and normal `[n, 3]` for rays `[n, 6]` float32; where nothing is
        hit, the distance is infinite and the triangle 0.
        """
        hit = self._scene.cast_rays(self._o3d.core.Tensor(rays), nthreads=self._threads)
        distance, triangle = hit["t_hit"].numpy(), hit["primitive_ids"].numpy().astype(np.int64)
        triangle[~np.isfinite(distance)] = 0  # Embree marks nothing by the largest integer
        return distance, triangle, hit["primitive_normals"].numpy()

    def sweep(self, sensor: SpinningSensor, pose: Array, rng: np.random.Generator) -> Scan:
        """Take one sweep from a pose (x, y, z of the road, heading) and return it in the sensor's frame: x
        ahead, y left, z up.

        A pulse that meets foliage or glass may go on behind it, once. A return is lost where too little power
        comes back: power is remission times the cosine of incidence over the squared range, soft at the
        threshold, plus 1 % of losses without a cause.
        """
        rays = np.empty((len(sensor.directions), 6), np.float32)
        rays[:, :3] = pose[:3]
        rays[:, 2] += sensor.height + rng.normal(0, 0.01)
        x, y, z = sensor.directions.T
        for axis, (a, b, c) in enumerate(_rotation(float(pose[3]), *rng.normal(0, 0.006, 2))):
            rays[:, 3 + axis] = a * x + b * y + c * z  # not by BLAS, whose threads cost more than this
        distance, triangle, normal = self.cast(rays)
        on = np.flatnonzero(rng.random(len(rays), dtype=np.float32) < self._through[triangle])
        gap = distance[on] + rng.uniform(0.1, 1.5, len(on)).astype(np.float32)
        further = rays[on]
        further[:, :3] += further[:, 3:] * gap[:, None]
        beyond, behind, normal[on] = self.cast(further)
        distance[on], triangle[on] = gap + beyond, behind

        blocks = [slice(start, start + _BLOCK) for start in range(0, len(rays), _BLOCK)]
        heard = [self._listen(sensor, rng, rays[b, 3:], distance[b], triangle[b], normal[b]) for b in blocks]
        keep = np.concatenate([part[0] + b.start for part, b in zip(heard, blocks, strict=True)])
        reach, seen = (np.concatenate([part[i] for part in heard]) for i in (1, 2))
        attributes = {"remission": seen, "ring": (keep // sensor.azimuths).astype(np.uint8)}
        return Scan(sensor.directions[keep] * reach[:, None], attributes, self._mesh.labels[triangle[keep]])

    def _listen(
        self,
        sensor: SpinningSensor,
        rng: np.random.Generator,
        directions: Array,
        distance: Array,
        triangle: Array,
        normal: Array,
    ) -> tuple[Array, Array, Array]:
        """Return which of some rays came back, and their measured range and remission, float32."""
        n = len(distance)
        noise, luck = rng.standard_normal((3, n), dtype=np.float32), rng.random(n, dtype=np.float32)
        surface = self._mesh.surface.take(triangle, axis=0)
        cosine = np.abs(np.einsum("ij,ij->i", normal, directions)) + _ROUGH
        remission = np.clip(surface[:, 0] * (1 + np.float32(0.12) * noise[0]), 0.01, 1.0)
        power = remission * cosine * np.square(10 / np.maximum(distance, np.float32(10.0)))
        chance = np.float32(0.99) / (1 + np.square(sensor.faint / np.maximum(power, np.float32(1e-9))))
        keep = np.flatnonzero((luck < chance) & (distance < sensor.max_range) & (distance > _NEAREST))
        noise, surface, remission = noise[:, keep], surface[keep], remission[keep]
        reach = distance[keep] + noise[1] * np.hypot(np.float32(sensor.noise), surface[:, 1])
        # A sensor calibrates most of the incidence and all of the range away; speckle remains.
        speckle = 1 + np.float32(0.2) * noise[2]
        seen = np.clip(remission * np.power(cosine[keep], np.float32(0.2)) * speckle, 0.0, 1.0)
        return keep, reach, np.round(seen * 100) / np.float32(100)


def _rotation(yaw: float, pitch: float, roll: float) -> Array:
    """The sensor's attitude as a float32 matrix `[3, 3]`."""
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw),
        np.sin(yaw),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(roll),
        np.sin(roll),
    )
    turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    tilt = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]]) @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    matrix: Array = (turn @ tilt).astype(np.float32)
    return matrix
