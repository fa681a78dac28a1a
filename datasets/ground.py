# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The course of a street and the ground it lies on: road, lane marks, parking lanes, sidewalks, side
roads, terrain.
"""

from __future__ import annotations

import numpy as np

from . import objects as o
from .scan import Array
from .shapes import Material, MeshBuilder, Place

REACH = 120.0  # metres of street before the first and after the last pose
_FAR = 160.0  # half side of the terrain around them
_KERB = 0.13  # metres


class Course:
    """Where a street runs and how wide its parts are. s is metres along its centre line, d metres to the
    left of it.
    """

    def __init__(self, rng: np.random.Generator, drive: float) -> None:
        self.drive, self.low, self.high, self.instance = drive, -REACH, drive + REACH, 0
        self.line = np.arange(self.low - 40, self.high + 41.0)
        bend = rng.uniform(0, 0.25) * np.sin(
            2 * np.pi * self.line / rng.uniform(150, 350) + rng.uniform(0, 6.3)
        )
        self.headings = bend - np.interp(0, self.line, bend)
        self.center = np.cumsum(np.stack([np.cos(self.headings), np.sin(self.headings)], axis=1), axis=0)
        self.center -= self.center[int(np.searchsorted(self.line, 0))]
        self.urban = rng.random() ** 1.5  # 0 = village, 1 = town
        self.lane = rng.uniform(2.8, 3.8)
        self.road = self.lane * (2 if rng.random() < 0.25 else 1)
        self.parking = [float(rng.uniform(2.0, 2.5) * (rng.random() < 0.65)) for _ in range(2)]
        self.walk = [float(rng.uniform(1.4, 2.5) + 1.5 * self.urban) for _ in range(2)]
        self.crossings = sorted(
            (float(rng.uniform(c - 25, c + 25)), float(rng.uniform(2.8, 4.5)))
            for c in np.arange(self.low + 40, self.high, 110)
            if rng.random() < 0.7
        )  # (s, half width)

    def heading(self, s: float) -> float:
        """The direction of the street at s, radians."""
        return float(np.interp(s, self.line, self.headings))

    def points(self, s: Array, d: float) -> Array:
        """World x, y `[n, 2]` of the places at s `[n]`, d metres to the left."""
        h = np.interp(s, self.line, self.headings)
        x, y = np.interp(s, self.line, self.center[:, 0]), np.interp(s, self.line, self.center[:, 1])
        return np.stack([x - d * np.sin(h), y + d * np.cos(h)], axis=1)

    def place(self, s: float, d: float, z: float = 0.0, yaw: float = 0.0, *, thing: bool = False) -> Place:
        """A place in street coordinates; `thing` gives it the next instance number."""
        self.instance += thing
        h = self.heading(s)
        x, y = np.interp(s, self.line, self.center[:, 0]), np.interp(s, self.line, self.center[:, 1])
        return Place(
            float(x - d * np.sin(h)), float(y + d * np.cos(h)), z, h + yaw, self.instance if thing else 0
        )

    def free(self, s: float, margin: float) -> bool:
        """Whether s is outside every side road by `margin`."""
        return all(abs(s - c) > half + margin for c, half in self.crossings)

    def edge(self, side: int) -> float:
        """Where the sidewalk of a side (0 left, 1 right) begins, metres from the centre line."""
        return self.road + self.parking[side]

    def yard(self, side: int) -> float:
        """Where the sidewalk of a side ends."""
        return self.edge(side) + self.walk[side]


def lay_ground(build: MeshBuilder, course: Course, rng: np.random.Generator) -> None:
    """Add the whole ground to the mesh. Bands that overlap lie 4 mm or more apart, so that no two
    surfaces tie for a ray.
    """
    asphalt = Material(o.ROAD, rng.uniform(0.15, 0.38), 0.004)
    parking = Material(o.PARKING, asphalt.remission * rng.uniform(1.0, 1.4), 0.006)
    pave = Material(o.SIDEWALK, rng.uniform(0.25, 0.5), 0.006)
    start, end = course.low - 30, course.high + 30
    _add_terrain(build, course, rng)
    _add_strip(build, course, (start, end), (-course.road, course.road), 0.0, asphalt)
    paint = Material(o.LANE_MARKING, 0.85, 0.004)
    for s in np.arange(course.low, course.high, 9.0):
        _add_strip(build, course, (s, s + 4.5), (-0.07, 0.07), 0.004, paint)
    for sign in (-1, 1):
        _add_strip(
            build,
            course,
            (course.low, course.high),
            (sign * (course.road - 0.3), sign * (course.road - 0.15)),
            0.004,
            paint,
        )
    for side, sign in ((0, 1), (1, -1)):
        edge, yard, s = course.edge(side), course.yard(side), start
        for crossing, half in [*course.crossings, (end, 0.0)]:
            if course.parking[side]:
                _add_strip(
                    build, course, (s, crossing - half), (sign * course.road, sign * edge), 0.0, parking
                )
            _add_strip(build, course, (s, crossing - half), (sign * edge, sign * yard), _KERB, pave)
            s = crossing + half
        for crossing, half in course.crossings:
            _add_side_road(build, course, crossing, half, side, asphalt, pave)


def _add_side_road(
    build: MeshBuilder, course: Course, s: float, half: float, side: int, asphalt: Material, pave: Material
) -> None:
    """One arm of a road across the street at s, with sidewalks of its own."""
    h, origin, sign = course.heading(s), course.points(np.array([s]), 0.0)[0], (1, -1)[side]
    turn = np.array([[np.cos(h), np.sin(h)], [-np.sin(h), np.cos(h)]])
    yard = course.yard(side)
    bands = [
        (-half, half, course.road, 0.0, asphalt),
        (half, half + 1.8, yard, _KERB, pave),
        (-half - 1.8, -half, yard, _KERB, pave),
    ]
    for low, high, start, z, material in bands:
        d = np.arange(start, 110.0, 8.0) * sign
        a, b = (np.stack([np.full(len(d), x), d], axis=1) @ turn + origin for x in (low, high))
        _add_ribbon(build, a, b, z, material)


def _add_terrain(build: MeshBuilder, course: Course, rng: np.random.Generator) -> None:
    """Rolling ground under everything, in 8 m cells: flat near roads, some metres of relief far from them."""
    x, y = np.meshgrid(
        np.arange(-_FAR, _FAR + course.drive + 8, 8.0), np.arange(-_FAR, _FAR + 8, 8.0), indexing="ij"
    )
    relief = np.zeros_like(x)
    for _ in range(4):
        relief += rng.uniform(0.1, 0.6) * np.sin(
            x * rng.uniform(0.02, 0.08) + y * rng.uniform(-0.08, 0.08) + rng.uniform(0, 6.3)
        )
    flat = np.clip((np.abs(y - np.interp(x, course.center[:, 0], course.center[:, 1])) - 30) / 40, 0, 1)
    for s, half in course.crossings:
        h, (cx, cy) = course.heading(s), course.points(np.array([s]), 0.0)[0]
        flat *= np.clip((np.abs((x - cx) * np.cos(h) + (y - cy) * np.sin(h)) - half - 10) / 30, 0, 1)
    rows, columns = x.shape
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1)
    triangles = np.concatenate(
        [np.stack([a, a + columns, a + 1], 1), np.stack([a + 1, a + columns, a + columns + 1], 1)]
    )
    vertices = np.stack([x, y, flat * relief - 0.05], axis=-1).reshape(-1, 3)
    build.add_triangles(vertices, triangles, Material(o.TERRAIN, rng.uniform(0.25, 0.5), 0.035))


def _add_strip(
    build: MeshBuilder,
    course: Course,
    s: tuple[float, float],
    d: tuple[float, float],
    z: float,
    material: Material,
) -> None:
    """A band of ground along the street between two s and two d, at height z."""
    if s[1] - s[0] > 0.1:
        along = np.linspace(s[0], s[1], max(2, int((s[1] - s[0]) / 4) + 1))
        _add_ribbon(build, course.points(along, min(d)), course.points(along, max(d)), z, material)


def _add_ribbon(build: MeshBuilder, a: Array, b: Array, z: float, material: Material) -> None:
    """Quads between two polylines `[n, 2]` at height z; a raised one gets faces down to the road on both
    sides.
    """
    n = len(a)
    lines = [(a, -0.02), (a, z), (b, z), (b, -0.02)] if z > 0.05 else [(a, z), (b, z)]
    vertices = np.concatenate([np.column_stack([line, np.full(n, height)]) for line, height in lines])
    i = np.arange(n - 1)
    quads = np.concatenate([
        np.stack([i + k * n, i + 1 + k * n, i + 1 + (k + 1) * n, i + (k + 1) * n], axis=1) for k in range(len(lines) - 1)
    ])  # fmt: skip
    build.add_triangles(vertices, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]), material)
